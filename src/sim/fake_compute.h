#pragma once
// An engine::Compute of virtual time. Its numbers are hashes: a residual row is a function of the
// layer and of every token up to its position, read from the pages that the hop names, so a lost,
// foreign or stale page shows as a wrong token. Cuts, chunks and batches do not change them.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/compute.h"
#include "env/env.h"
#include "sim/checkers.h"

namespace mesh::sim {

struct FakeComputeConfig {
  engine::ComputeShape shape{6, 4096, 16};  // row_bytes ≥ 8
  std::uint32_t vocabulary = 1024;
  std::uint32_t pages = 64;           // page 0 included
  std::uint32_t page_positions = 16;  // positions of one page
  std::uint64_t layer_bytes = 100;
  Duration load_per_layer = milliseconds(20);
  Duration step_base = microseconds_of(200);
  Duration row_per_layer = microseconds_of(5);

  static constexpr Duration microseconds_of(std::int64_t n) { return std::chrono::microseconds(n); }
};

// Control-loop only. Callbacks die with `timers`' host. Inconsistent jobs are added to `violations`
// and answered with kInternal.
class FakeCompute : public engine::Compute {
 public:
  FakeCompute(env::Timers& timers, FakeComputeConfig config, Violations& violations);
  ~FakeCompute() override;

  engine::ComputeShape shape() const override { return config_.shape; }
  void load(LayerRange layers, std::function<void(Result<engine::LoadReport>)> done) override;
  void submit(engine::StepJob job, std::function<void(Result<engine::StepOutput>)> done) override;

  // The next step fails with this error, once.
  void fail_next(Error error) { fail_next_ = std::move(error); }
  std::uint64_t rows_computed() const { return rows_; }

  // The tokens that any mesh must give after `prompt`.
  static std::vector<TokenId> reference(const FakeComputeConfig& config,
                                        const std::vector<TokenId>& prompt, std::size_t count);

 private:
  // Per page, position in it and held layer: the running state of the sequence there.
  struct Cell {
    std::int32_t position = -1;
    std::uint64_t state = 0;
  };
  Result<void> check(const engine::StepJob& job) const;
  Result<engine::StepOutput> compute(const engine::StepJob& job);
  Cell& cell(PageId page, std::int32_t position, std::uint32_t layer);

  env::Timers& timers_;
  FakeComputeConfig config_;
  Violations& violations_;
  LayerRange layers_;
  std::vector<Cell> cells_;
  bool busy_ = false;
  std::uint64_t rows_ = 0;
  std::optional<Error> fail_next_;
  env::TimerHandle timer_;
};

}  // namespace mesh::sim
