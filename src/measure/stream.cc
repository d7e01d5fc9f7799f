#include "measure/stream.h"

#include <chrono>

#include "measure/real_time.h"

namespace mesh::measure {
namespace {
constexpr std::chrono::seconds kPatience{300};
}  // namespace

void Stream::token(const SampledToken&) {
  std::lock_guard lock(mutex_);
  times_.push_back(now());
  changed_.notify_all();
}

void Stream::finished(wire::Finish) {
  std::lock_guard lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

void Stream::failed(const Error& why) {
  std::lock_guard lock(mutex_);
  ended_ = true;
  error_ = why;
  changed_.notify_all();
}

std::vector<Instant> Stream::times() const {
  std::lock_guard lock(mutex_);
  return times_;
}

Result<void> Stream::wait(const std::function<bool()>& seen) const {
  std::unique_lock lock(mutex_);
  const bool came = changed_.wait_for(lock, kPatience, [&] { return ended_ || seen(); });
  if (error_) return *error_;
  if (!came) return Error(Code::kDeadlineExceeded, "a stream stands still");
  return {};
}

Result<void> Stream::wait_tokens(std::size_t count) const {
  return wait([this, count] { return times_.size() >= count; });
}
Result<void> Stream::wait_end() const {
  return wait([] { return false; });
}

std::vector<double> gaps_ms(const std::vector<Instant>& times, Instant begin, Instant end) {
  std::vector<double> out;
  for (std::size_t i = 1; i < times.size(); ++i)
    if (times[i - 1] >= begin && times[i] < end)
      out.push_back(to_milliseconds(times[i] - times[i - 1]));
  return out;
}

double ms_per_token(const std::vector<Instant>& times) {
  if (times.size() < 2) return 0;
  return to_milliseconds(times.back() - times.front()) / static_cast<double>(times.size() - 1);
}

}  // namespace mesh::measure
