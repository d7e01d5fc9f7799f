#pragma once
// What a hop asks of the engine: load layers, run a step. Asynchronous, one step at a time; the
// engine runs it on its compute thread, simulation on virtual time. Pages are owned by the hop
// (kvcache), the engine only reads the tables.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/sampling.h"
#include "base/time.h"
#include "engine/token_history.h"

namespace mesh::engine {

// What is wanted of one sampled row.
struct SampleSpec {
  std::uint32_t position = 0;                    // of the token that follows the row
  std::uint32_t drawn = 0;                       // tokens of the answer so far
  std::shared_ptr<const SamplingParams> params;  // none: greedy, no log-probabilities
  // Needed by penalties. Its owner, the control loop, does not change it while a step that names it
  // is in flight.
  std::shared_ptr<const TokenHistory> history;
  std::optional<TokenId> given;  // the token is known: only its log-probability is wanted
};

// One step of a stage: T rows of S sequences, the rows of a sequence at consecutive positions.
struct StepJob {
  std::vector<TokenId> tokens;           // [T]
  std::vector<std::int32_t> positions;   // [T]
  std::vector<std::int32_t> row_start;   // [S+1]
  std::vector<std::int32_t> kv_length;   // [S] cached positions after this step
  std::vector<std::int32_t> page_start;  // [S+1]
  std::vector<PageId> pages;
  Buffer residual_in;                     // [T, hidden]; empty on the first stage
  std::vector<std::int32_t> sample_rows;  // rows to sample from; last stage only, ascending
  std::vector<SampleSpec> sampling;       // one per sample_rows; empty: greedy for all
  std::size_t rows() const { return positions.size(); }
};

struct StepOutput {
  Buffer residual_out;                // [T, hidden] of the residual type; empty on the last stage
  std::vector<SampledToken> sampled;  // one per sample_rows
  std::vector<std::uint8_t> non_finite;  // [S] 1: this sequence's rows or logits are not finite
  Duration compute{};
};

// What a node holds after load().
struct LoadReport {
  LayerRange layers;
  std::uint64_t bytes_loaded = 0;         // source bytes of the tensors held
  std::uint32_t pages = 0;                // KV pages, page 0 included
  std::vector<std::uint64_t> layer_hash;  // XXH3 of each held layer's source bytes
};

// Facts about the model that hop and driver need.
struct ComputeShape {
  std::uint32_t layers = 0;
  std::uint32_t context = 0;
  std::size_t row_bytes = 0;     // one residual row
  std::uint32_t vocabulary = 0;  // 0: token ids are not checked
};

class Compute {
 public:
  virtual ~Compute() = default;
  virtual ComputeShape shape() const = 0;
  // Makes `layers` the held range: reads what is missing, drops the rest, makes an empty KV pool;
  // an empty range drops everything and cannot fail. No step may be in flight. `done` runs on the
  // control loop. A second call before `done` is our bug.
  virtual void load(LayerRange layers, std::function<void(Result<LoadReport>)> done) = 0;
  // Runs one step over the held layers. At most one in flight. `done` runs on the control loop.
  virtual void submit(StepJob job, std::function<void(Result<StepOutput>)> done) = 0;
};

}  // namespace mesh::engine
