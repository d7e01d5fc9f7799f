#include "bench/support/synthetic_mesh.h"

#include <CLI/CLI.hpp>

#include "measure/speed.h"
#include "model/synthetic_shapes.h"

namespace mesh::bench {
namespace {

measure::SpeedOptions speed_of(const SyntheticOptions& options, std::uint32_t streams) {
  measure::SpeedOptions speed;
  speed.prompts = {};
  speed.streams = {streams};
  speed.new_tokens = options.tokens;
  speed.repeats = 1;
  return speed;
}

}  // namespace

void add_options(CLI::App& app, SyntheticOptions& options) {
  app.add_option("--synthetic", options.synthetic, "shape, as for toolkit-mesh bench");
  app.add_option("--weights", options.weights, "type of the weights");
  app.add_option("--pairs", options.pairs)->check(CLI::Range(1, 1000));
  app.add_option("--tokens", options.tokens)->check(CLI::Range(8, 4000));
}

Result<measure::LocalMeshOptions> synthetic_mesh(const SyntheticOptions& options,
                                                 std::uint32_t prompt_tokens) {
  MESH_ASSIGN_OR_RETURN(const model::RandomModelOptions shape,
                        model::synthetic_shape(options.synthetic, options.weights));
  measure::LocalMeshOptions mesh;
  mesh.model = [shape] { return model::make_random_model(shape); };
  measure::SpeedOptions most = speed_of(options, 8);
  if (prompt_tokens > 0) most.prompts = {prompt_tokens};
  mesh.pages = measure::pages_needed(most);
  return mesh;
}

Result<double> streams_per_second(measure::LocalMesh& mesh, const SyntheticOptions& options,
                                  std::uint32_t streams) {
  MESH_ASSIGN_OR_RETURN(const measure::SpeedReport report,
                        measure::measure_speed(mesh, speed_of(options, streams)));
  return report.streams.front().tokens_per_second;
}

}  // namespace mesh::bench
