#include "measure/timed_compute.h"

#include <algorithm>
#include <iterator>

#include "measure/real_time.h"

namespace mesh::measure {

void TimedCompute::load(LayerRange layers, std::function<void(Result<engine::LoadReport>)> done) {
  engine_->load(
      layers, [notes = notes_, done = std::move(done)](Result<engine::LoadReport> report) mutable {
        {
          std::lock_guard lock(notes->mutex);
          notes->load_error.reset();
          if (report.ok())
            notes->bytes_loaded = report->bytes_loaded;
          else
            notes->load_error = report.error();
        }
        done(std::move(report));
      });
}

void TimedCompute::submit(engine::StepJob job,
                          std::function<void(Result<engine::StepOutput>)> done) {
  StepRecord record;
  record.rows = job.rows();
  record.sequences = job.kv_length.size();
  engine_->submit(std::move(job), [notes = notes_, record, done = std::move(done)](
                                      Result<engine::StepOutput> output) mutable {
    if (output.ok()) {
      record.done = now();
      record.compute = output->compute;
      std::lock_guard lock(notes->mutex);
      notes->records.push_back(record);
    }
    done(std::move(output));
  });
}

std::vector<StepRecord> TimedCompute::records() const {
  std::lock_guard lock(notes_->mutex);
  return notes_->records;
}

std::uint64_t TimedCompute::bytes_loaded() const {
  std::lock_guard lock(notes_->mutex);
  return notes_->bytes_loaded;
}

std::optional<Error> TimedCompute::load_error() const {
  std::lock_guard lock(notes_->mutex);
  return notes_->load_error;
}

std::vector<StepRecord> between(const std::vector<StepRecord>& records, Instant begin,
                                Instant end) {
  std::vector<StepRecord> out;
  std::copy_if(records.begin(), records.end(), std::back_inserter(out),
               [&](const StepRecord& r) { return r.done >= begin && r.done < end; });
  return out;
}

double busy_share(const std::vector<StepRecord>& records, Instant begin, Instant end) {
  Duration busy{};
  for (const StepRecord& record : between(records, begin, end)) busy += record.compute;
  return to_seconds(busy) / to_seconds(end - begin);
}

double mean_decode_ms(const std::vector<StepRecord>& records) {
  std::size_t steps = 0;
  double sum = 0;
  for (const StepRecord& record : records) {
    if (!record.decode_only()) continue;
    ++steps;
    sum += to_milliseconds(record.compute);
  }
  return steps == 0 ? 0 : sum / static_cast<double>(steps);
}

double mean_decode_batch(const std::vector<StepRecord>& records) {
  std::size_t steps = 0, sequences = 0;
  for (const StepRecord& record : records) {
    if (!record.decode_only()) continue;
    ++steps;
    sequences += record.sequences;
  }
  return steps == 0 ? 0 : static_cast<double>(sequences) / static_cast<double>(steps);
}

}  // namespace mesh::measure
