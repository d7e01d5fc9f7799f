#pragma once
// All stages of a model in one process, handing residual bytes over as a route over several nodes
// does. For `eval` and tests; serving runs the same Stage.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/stage.h"
#include "kvcache/page_tables.h"

namespace mesh::engine {

struct RingOptions {
  std::vector<std::uint32_t> cuts;  // ascending layers at which the model is cut; empty: one stage
  std::uint32_t pages = 0;          // KV pages of every stage, page 0 included
  // Unwritten KV slots hold NaN instead of nothing in particular.
  bool kv_starts_as_nan = false;
};

// Consecutive rows of one sequence within a step.
struct RingRows {
  SequenceId sequence;
  std::int32_t first_position = 0;
  std::span<const TokenId> tokens;
  bool sample = false;   // choose a token after the last row
  SampleSpec spec = {};  // how; greedily unless it says more
};

class LocalRing {
 public:
  // Errors: invalid_argument (cuts), those of Stage::load().
  static Result<std::unique_ptr<LocalRing>> make(ops::Backend& backend,
                                                 const formats::TensorSource& source,
                                                 const model::ModelSpec& spec,
                                                 const RingOptions& options);

  // On every stage, or on none: their pools are equal. Errors: as PageTables::reserve().
  Result<void> reserve(SequenceId sequence, std::uint32_t positions_max);
  void release(SequenceId sequence);
  // One step through all stages; `non_finite` of the output joins those of all stages. A sequence
  // stands at most once in `rows`. Errors: as Stage::run() and make_step_job().
  Result<StepOutput> step(std::span<const RingRows> rows, const StageProbe* probe = nullptr);

  const model::ModelSpec& spec() const { return stages_.front()->spec(); }
  std::size_t stages() const { return stages_.size(); }

 private:
  LocalRing() = default;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::vector<kvcache::PageTables> tables_;  // one per stage
};

}  // namespace mesh::engine
