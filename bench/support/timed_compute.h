#pragma once
// An engine that notes what it was given and how long it took.

#include <memory>
#include <mutex>
#include <vector>

#include "base/time.h"
#include "engine/compute.h"

namespace mesh::bench {

struct StepRecord {
  Instant done;
  Duration compute{};
  std::size_t rows = 0;
  std::size_t sequences = 0;
  bool decode_only() const { return rows == sequences; }
};

// Belongs to the control loop like the engine inside; records() from any thread.
class TimedCompute final : public engine::Compute {
 public:
  explicit TimedCompute(std::unique_ptr<engine::Compute> engine) : engine_(std::move(engine)) {}
  engine::ComputeShape shape() const override { return engine_->shape(); }
  void load(LayerRange layers, std::function<void(Result<engine::LoadReport>)> done) override {
    engine_->load(layers, std::move(done));
  }
  void submit(engine::StepJob job, std::function<void(Result<engine::StepOutput>)> done) override;

  std::vector<StepRecord> records() const;

 private:
  std::unique_ptr<engine::Compute> engine_;
  struct Notes {
    std::mutex mutex;
    std::vector<StepRecord> records;
  };
  std::shared_ptr<Notes> notes_ = std::make_shared<Notes>();
};

// The steps that ended in [begin, end).
std::vector<StepRecord> between(const std::vector<StepRecord>& records, Instant begin, Instant end);
// Share of the time in which the engine computed.
double busy_share(const std::vector<StepRecord>& records, Instant begin, Instant end);
// Mean milliseconds of the steps without prompt rows; 0 without any.
double mean_decode_ms(const std::vector<StepRecord>& records);
// Mean sequences of the steps without prompt rows; 0 without any.
double mean_decode_batch(const std::vector<StepRecord>& records);

}  // namespace mesh::bench
