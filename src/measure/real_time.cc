#include "measure/real_time.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <future>
#include <memory>

namespace mesh::measure {

Instant now() {
  return Instant(std::chrono::steady_clock::now().time_since_epoch());
}

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(share * static_cast<double>(values.size()));
  return values[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

void run_on(env::RealLoop& loop, const std::function<void()>& task) {
  const auto done = std::make_shared<std::promise<void>>();
  loop.post([&task, done] {
    task();
    done->set_value();
  });
  done->get_future().wait();
}

}  // namespace mesh::measure
