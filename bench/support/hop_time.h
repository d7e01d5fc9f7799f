#pragma once
// How long a STEP takes from one control loop to another over a real link on loopback.

#include <cstddef>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "wire/messages.h"

namespace mesh::bench {

struct HopOptions {
  std::size_t rows = 1;
  std::size_t row_bytes = 4096;
  std::size_t samples = 2000;
  // What the receiver waits before it answers. Between two steps of a node lies a computation, in
  // which the threads of a link fall asleep; without a pause they would not.
  Duration pause = milliseconds(1);
};

// A decode step: `rows` sequences, one row each.
wire::StepMessage decode_step_of(std::size_t rows, std::size_t row_bytes);

// Microseconds from before encode() on the sender's loop to after decode_step() on the receiver's,
// the frame going back and forth. Errors: unavailable (no link, or it breaks).
Result<std::vector<double>> hop_times(const HopOptions& options);

}  // namespace mesh::bench
