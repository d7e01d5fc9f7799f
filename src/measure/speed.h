#pragma once
// How fast a mesh on this machine answers: prompts, and streams side by side. The library behind
// `toolkit-mesh bench`; requests take the way they take in service, from the driver of the entry
// through every stage, without HTTP and text.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "measure/local_mesh.h"

namespace mesh::measure {

struct SpeedOptions {
  std::vector<std::uint32_t> prompts = {512};             // lengths in tokens, each alone
  std::vector<std::uint32_t> streams = {1, 4, 8, 16};     // sequences that decode side by side
  std::uint32_t new_tokens = 48;                          // of each stream, measured
  std::uint32_t depth = 16;                               // prompt of each stream
  std::uint32_t repeats = 3;                              // of every measurement; medians count
  std::function<void(const std::string& what)> progress;  // before each measurement
};

struct PromptSpeed {
  std::uint32_t tokens = 0;
  double first_token_ms = 0;  // median time to the first token (TTFT)
  double tokens_per_second = 0;
  double fastest = 0;  // tokens per second of the best repeat
};

struct StreamSpeed {
  std::uint32_t streams = 0;
  double tokens_per_second = 0;  // of all streams together, median of the repeats
  double fastest = 0;            // best repeat
  double gap_ms = 0;             // median between two tokens of one stream
  double gap_p99_ms = 0;
  double batch = 0;  // mean sequences of a step of the first stage
};

struct SpeedReport {
  std::vector<PromptSpeed> prompts;
  std::vector<StreamSpeed> streams;
};

// Pages that each node of the mesh must have for `options`, page 0 included.
std::uint32_t pages_needed(const SpeedOptions& options);

// One round that warms up, then the measurements. Errors: invalid_argument (more positions than the
// model's context), those of a request.
Result<SpeedReport> measure_speed(LocalMesh& mesh, const SpeedOptions& options);

}  // namespace mesh::measure
