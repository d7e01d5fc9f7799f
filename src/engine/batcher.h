#pragma once
// Which waiting rows a stage runs in its next step. Pure: rows in, plans out; no clock, no threads.

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/limits.h"
#include "base/result.h"

namespace mesh::engine {

struct BatcherOptions {
  std::size_t row_bytes = 0;  // bytes of one residual row; 0 on the first stage, which has none
  std::size_t batch_rows = limits::kBatchRows;      // all rows of a step, at least 2
  std::size_t prompt_rows = limits::kPrefillChunk;  // prompt rows of a step
};

// What one step may hold at most; 0 counts as 1, so that neither kind of row starves unless it is
// told to wait.
struct BatchLimits {
  std::size_t decode_rows = limits::kBatchRows;
  std::size_t prompt_rows = limits::kPrefillChunk;
  bool prompts_wait = false;  // none at all: the next stage has no room for prompt rows
  bool decodes_wait = false;  // none at all: they shall run together with those on their way
};

// Consecutive rows of one sequence within a plan.
struct BatchPart {
  SequenceId sequence;
  std::int32_t first_position = 0;
  std::int32_t rows = 0;
  std::int32_t offset = 0;  // first row within the plan
  bool decode = false;      // one row of a running generation
  friend bool operator==(const BatchPart&, const BatchPart&) = default;
};

// Rows of one step: every sequence at most once, decode parts first.
struct BatchPlan {
  std::vector<BatchPart> parts;
  std::vector<TokenId> tokens;  // [rows]; 0 where the sender gave none
  Buffer hidden;                // [rows, row_bytes]; empty on the first stage
  std::size_t rows() const { return tokens.size(); }
};

// Rows that wait at the input of one stage. Decode rows go first, in order of arrival; prompts
// share what is left of the budget, each step starting with the prompt that has waited longest, and
// a prompt that was cut goes to the end of the queue. When more decode rows wait than a step holds,
// prompts still get a quarter of it, or their limit when that is less. Rows of a sequence keep
// their order and are never reordered or merged with another sequence's. Not thread-safe: it
// belongs to the control loop.
class Batcher {
 public:
  explicit Batcher(const BatcherOptions& options);

  // Appends rows at positions first_position, first_position + 1 … `tokens` may be empty on a later
  // stage, `rows` ([n, row_bytes]) is empty on the first. is_decode marks a single row of a running
  // generation. Errors: invalid_argument (sizes that do not fit each other, negative positions, a
  // gap after the rows that wait already), resource_exhausted (too many sequences or bytes wait).
  Result<void> add_rows(SequenceId sequence, std::int32_t first_position,
                        std::span<const TokenId> tokens, Buffer rows, bool is_decode);
  // The rows of the next step, taken out of the queue; nothing when none wait. The options bound it
  // whatever the limits say.
  std::optional<BatchPlan> next(const BatchLimits& most);
  std::optional<BatchPlan> next() {
    return next({options_.batch_rows, options_.prompt_rows, false});
  }
  // Forgets the waiting rows of a sequence and returns how many there were.
  std::size_t drop(SequenceId sequence);

  // Sequences whose only waiting row is the next one of a generation.
  std::size_t waiting_decodes() const { return decodes_.size(); }
  std::size_t waiting_rows() const { return waiting_rows_; }
  std::size_t waiting_sequences() const { return waiting_.size(); }

 private:
  // What one call of add_rows brought, less what was taken.
  struct Piece {
    std::vector<TokenId> tokens;
    Buffer hidden;
    std::size_t rows = 0;
    std::size_t taken = 0;
    bool decode = false;
  };
  struct Waiting {
    std::int32_t next_position = 0;  // of the first waiting row
    std::size_t rows = 0;
    std::deque<Piece> pieces;
    bool is_decode() const { return rows == 1 && pieces.front().decode; }
  };

  void take(SequenceId sequence, std::size_t rows, BatchPlan& plan);
  void enqueue(SequenceId sequence);
  void forget(std::size_t rows);

  BatcherOptions options_;
  std::map<SequenceId, Waiting> waiting_;
  std::deque<SequenceId> decodes_;  // sequences whose only waiting row is a decode row
  std::deque<SequenceId> prompts_;  // all other waiting sequences
  std::size_t waiting_rows_ = 0;
  std::size_t waiting_bytes_ = 0;
};

}  // namespace mesh::engine
