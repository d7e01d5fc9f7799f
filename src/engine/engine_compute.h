#pragma once
// The engine of a node: one backend, one model, one compute thread.

#include <cstdint>
#include <functional>
#include <memory>

#include "base/time.h"
#include "engine/compute.h"
#include "engine/stage.h"
#include "env/env.h"
#include "formats/model_files.h"
#include "ops/ops.h"

namespace mesh::engine {

struct EngineOptions {
  StageOptions stage;
  // Monotonic time for StepOutput::compute, called on the compute thread; none: durations are 0.
  std::function<Instant()> now;
};

// Belongs to the control loop: construct, call and destroy it there. The compute thread alone
// touches the backend, weights and KV, and mostly is the loop for the time of a `done` (Loop::
// dispatch()), which therefore must not destroy the engine. The destructor waits for the load or
// step that runs; no `done` is called after it began. `loop` must outlive it.
class EngineCompute final : public Compute {
 public:
  // Reads the configuration; loads nothing. Errors: those of model::parse_config().
  static Result<std::unique_ptr<EngineCompute>> make(std::unique_ptr<ops::Backend> backend,
                                                     formats::ModelFiles model, env::Loop& loop,
                                                     EngineOptions options);
  ~EngineCompute() override;

  ComputeShape shape() const override;
  // Errors given to `done`: those of Stage::load(); nothing is held after one.
  void load(LayerRange layers, std::function<void(Result<LoadReport>)> done) override;
  // Errors given to `done`: those of Stage::run(), unavailable (nothing is loaded).
  void submit(StepJob job, std::function<void(Result<StepOutput>)> done) override;

  const model::ModelSpec& spec() const;
  ops::BackendInfo backend_info() const;  // as it was at construction
  std::uint64_t self_test() const;        // likewise

 private:
  struct Impl;
  explicit EngineCompute(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::engine
