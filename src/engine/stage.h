#pragma once
// A contiguous layer range on one device: weights, KV pages, and one step at a time over them.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "engine/compute.h"
#include "formats/model_files.h"
#include "model/spec.h"
#include "ops/ops.h"

namespace mesh::engine {

// Room for the KV cache: `pages` when not 0 (page 0 included), else as many as fit into `kv_bytes`,
// at most what limits::kSequencesPerStage sequences of full context could use. Weights and KV cache
// together stay within `memory_bytes`, unless it is 0.
struct StageOptions {
  std::uint32_t pages = 0;
  std::uint64_t kv_bytes = 0;
  std::uint64_t memory_bytes = 0;
  // Called by load() after each layer: source bytes read so far and to be read in all.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress = {};
};

// What a test or `eval` sees of a step beyond its output. Bytes and values live for the call only.
struct StageProbe {
  // The rows behind the first `layers_done` layers of the model, 0: the embedding rows. [T, hidden]
  // of the residual type. Called once for each number in a ring, whatever the cuts.
  std::function<void(std::uint32_t layers_done, std::span<const std::byte> rows)> residual;
  // Logits of every row of the batch in groups, [n, vocabulary] from row `first_row`; last stage
  // only.
  std::function<void(std::size_t first_row, std::span<const float> logits)> logits;
};

// Synchronous; one thread at a time. Backend and source must outlive it.
class Stage {
 public:
  // Reads the tensors of `layers` and makes an empty KV pool. `previous`, a stage of the same model
  // and backend, is consumed: what `layers` needs of its weights is kept, the rest and its KV are
  // freed before anything is read, and a load that fails leaves nothing. Errors: invalid_argument
  // (the range), resource_exhausted (no room for a page), those of the weights.
  static Result<std::unique_ptr<Stage>> load(ops::Backend& backend,
                                             const formats::TensorSource& source,
                                             const model::ModelSpec& spec, LayerRange layers,
                                             const StageOptions& options,
                                             std::unique_ptr<Stage> previous = nullptr);
  ~Stage();

  const model::ModelSpec& spec() const;
  LayerRange layers() const;
  bool is_first() const;
  bool is_last() const;
  std::size_t row_bytes() const;  // one residual row
  LoadReport report() const;
  ops::KvPool& kv();

  // Runs the job over the held layers. Rows that are not finite are reported per sequence, not an
  // error: the other sequences of the batch are unharmed. `compute` of the output is left 0.
  // Errors: invalid_argument (check_step_job).
  Result<StepOutput> run(const StepJob& job, const StageProbe* probe = nullptr);

 private:
  struct State;
  void sample(ops::Step& step, const ops::Tensor& residual, const StepJob& job, StepOutput& out);
  void show_logits(ops::Step& step, const ops::Tensor& residual, const StageProbe& probe);
  explicit Stage(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mesh::engine
