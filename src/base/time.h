#pragma once
// Time as values. Nothing here reads a clock: that is env::Clock's business, so that simulation
// owns time.

#include <chrono>
#include <cstdint>

namespace mesh {

using Duration = std::chrono::nanoseconds;

// Tag of the monotonic time line; deliberately without now().
struct MonotonicTime {
  using rep = Duration::rep;
  using period = Duration::period;
  using duration = Duration;
  using time_point = std::chrono::time_point<MonotonicTime, Duration>;
  static constexpr bool is_steady = true;
};
using Instant = MonotonicTime::time_point;

constexpr Duration milliseconds(std::int64_t n) {
  return std::chrono::milliseconds(n);
}
constexpr Duration seconds(std::int64_t n) {
  return std::chrono::seconds(n);
}
constexpr double to_seconds(Duration d) {
  return static_cast<double>(d.count()) * 1e-9;
}
constexpr double to_milliseconds(Duration d) {
  return static_cast<double>(d.count()) * 1e-6;
}

}  // namespace mesh
