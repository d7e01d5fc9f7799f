#pragma once
// An engine that notes what it was given and how long it took.

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/time.h"
#include "engine/compute.h"

namespace mesh::measure {

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
  void load(LayerRange layers, std::function<void(Result<engine::LoadReport>)> done) override;
  void submit(engine::StepJob job, std::function<void(Result<engine::StepOutput>)> done) override;

  std::vector<StepRecord> records() const;
  std::uint64_t bytes_loaded() const;       // source bytes of the last load
  std::optional<Error> load_error() const;  // why the last load failed

 private:
  std::unique_ptr<engine::Compute> engine_;
  struct Notes {
    std::mutex mutex;
    std::vector<StepRecord> records;
    std::uint64_t bytes_loaded = 0;
    std::optional<Error> load_error;
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

}  // namespace mesh::measure
