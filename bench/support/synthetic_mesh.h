#pragma once
// Nodes of one process that serve random weights of a published shape, and how fast they decode.

#include <cstdint>
#include <string>

#include "base/result.h"
#include "measure/local_mesh.h"

namespace CLI {
class App;
}

namespace mesh::bench {

struct SyntheticOptions {
  std::string synthetic, weights;  // as for toolkit-mesh bench
  std::uint32_t pairs = 5;         // of measurements that are compared
  std::uint32_t tokens = 48;       // of each stream
};
void add_options(CLI::App& app, SyntheticOptions& options);

// The model and pages for eight streams, or for prompts of so many tokens in all; stages and
// threads are left to the caller. Errors: an unknown shape or type.
Result<measure::LocalMeshOptions> synthetic_mesh(const SyntheticOptions& options,
                                                 std::uint32_t prompt_tokens = 0);

// Tokens per second of `streams` side by side. Errors: those of measure_speed().
Result<double> streams_per_second(measure::LocalMesh& mesh, const SyntheticOptions& options,
                                  std::uint32_t streams);

}  // namespace mesh::bench
