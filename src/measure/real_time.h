#pragma once
// Real time for measurements, and a call into a running control loop.

#include <functional>
#include <vector>

#include "base/time.h"
#include "env/real_loop.h"

namespace mesh::measure {

// Monotonic, any thread; unlike a loop's clock it moves within a turn.
Instant now();

// CPU time of the calling thread in seconds, for which other programs count less.
double thread_seconds();

// The value below which `share` of them lie (nearest rank); 0 for none.
double percentile(std::vector<double> values, double share);

// Runs `task` on the loop and waits for its end. Not from the loop.
void run_on(env::RealLoop& loop, const std::function<void()>& task);

}  // namespace mesh::measure
