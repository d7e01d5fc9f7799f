// What a cut gains: two nodes with one thread each against one node with one.

#include <CLI/CLI.hpp>
#include <functional>

#include "bench/support/report.h"
#include "measure/speed.h"
#include "model/synthetic_shapes.h"

namespace mesh::bench {
namespace {

using measure::LocalMesh;

constexpr double kPromptBar = 1.7;
constexpr double kStreamsBar = 0.93;
constexpr double kStreamBar = 0.99;

struct Options {
  std::string synthetic = "llama-3.2-1b";
  std::string weights = "q8_0";
  std::uint32_t pairs = 5;
  std::uint32_t tokens = 48;
};

measure::SpeedOptions speed_of(std::uint32_t streams, const Options& options) {
  measure::SpeedOptions speed;
  speed.prompts = {};
  speed.streams = {streams};
  speed.new_tokens = options.tokens;
  speed.repeats = 1;
  return speed;
}

Result<std::unique_ptr<LocalMesh>> start(std::uint32_t nodes, int threads, const Options& options) {
  MESH_ASSIGN_OR_RETURN(const model::RandomModelOptions shape,
                        model::synthetic_shape(options.synthetic, options.weights));
  measure::LocalMeshOptions mesh;
  mesh.model = [shape] { return model::make_random_model(shape); };
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles model, mesh.model());
  MESH_ASSIGN_OR_RETURN(mesh.stages, measure::planned_stages(std::move(model), nodes));
  mesh.threads = threads;
  measure::SpeedOptions most = speed_of(8, options);
  most.prompts = {4 * 2048};  // room for all that is asked at once
  mesh.pages = measure::pages_needed(most);
  return LocalMesh::start(mesh);
}

// Tokens of prompts per second, from the request to the first token of the last of them.
Result<double> prompts(LocalMesh& mesh, std::uint32_t count, std::uint32_t tokens) {
  static std::uint64_t number = 1u << 20;
  std::vector<LocalMesh::Running> running;
  const Instant asked = measure::now();
  for (std::uint32_t i = 0; i < count; ++i) running.push_back(mesh.ask(tokens, 1, ++number));
  for (const auto& r : running) MESH_RETURN_IF_ERROR(r.stream->wait_end());
  return count * tokens / to_seconds(measure::now() - asked);
}

Result<double> streams(LocalMesh& mesh, std::uint32_t count, const Options& options) {
  MESH_ASSIGN_OR_RETURN(const measure::SpeedReport report,
                        measure::measure_speed(mesh, speed_of(count, options)));
  return report.streams.front().tokens_per_second;
}

using Measure = std::function<Result<double>(LocalMesh&)>;

// Median of ours / theirs over the pairs; each pair begins with the other side.
Result<double> ratio(LocalMesh& ours, LocalMesh& theirs, std::uint32_t pairs,
                     const Measure& measure) {
  std::vector<double> ratios;
  for (std::uint32_t i = 0; i < pairs; ++i) {
    LocalMesh& first = i % 2 == 0 ? ours : theirs;
    LocalMesh& second = i % 2 == 0 ? theirs : ours;
    MESH_ASSIGN_OR_RETURN(const double a, measure(first));
    MESH_ASSIGN_OR_RETURN(const double b, measure(second));
    ratios.push_back(i % 2 == 0 ? a / b : b / a);
  }
  return percentile(ratios, 0.5);
}

Result<void> measure_all(const Options& options, Report& report) {
  MESH_ASSIGN_OR_RETURN(const auto one, start(1, 1, options));
  MESH_ASSIGN_OR_RETURN(const auto two, start(2, 1, options));
  for (LocalMesh* mesh : {one.get(), two.get()})
    MESH_RETURN_IF_ERROR(prompts(*mesh, 4, 128));  // warms up
  for (const auto& [count, tokens] : {std::pair{4u, 512u}, std::pair{1u, 2048u}}) {
    MESH_ASSIGN_OR_RETURN(
        const double gain,
        ratio(*two, *one, options.pairs, [count = count, tokens = tokens](LocalMesh& mesh) {
          return prompts(mesh, count, tokens);
        }));
    report.at_least(fmt::format("two stages / one: {} x {} tokens of prompt", count, tokens), gain,
                    kPromptBar, "");
  }
  const auto of_streams = [&](std::uint32_t count) {
    return [&options, count](LocalMesh& mesh) { return streams(mesh, count, options); };
  };
  MESH_ASSIGN_OR_RETURN(const double alone, ratio(*two, *one, options.pairs, of_streams(1)));
  report.at_least("two stages / one: 1 stream", alone, kStreamBar, "");
  MESH_ASSIGN_OR_RETURN(const double eight, ratio(*two, *one, options.pairs, of_streams(8)));
  MESH_ASSIGN_OR_RETURN(const auto wide, start(1, 2, options));
  MESH_ASSIGN_OR_RETURN(const double scaling, ratio(*wide, *one, options.pairs, of_streams(8)));
  report.value("two stages / one: 8 streams", eight, "");
  report.value("two threads / one: 8 streams", scaling, "");
  report.at_least("8 streams: gain of the cut / gain of a thread", eight / scaling, kStreamsBar,
                  "");
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("bench_split: two stages of one thread each against one stage of one thread");
  ReportOptions report_options;
  Options options;
  add_options(app, report_options);
  app.add_option("--synthetic", options.synthetic, "shape, as for toolkit-mesh bench");
  app.add_option("--weights", options.weights, "type of the weights");
  app.add_option("--pairs", options.pairs)->check(CLI::Range(1, 1000));
  app.add_option("--tokens", options.tokens)->check(CLI::Range(8, 4000));
  CLI11_PARSE(app, argc, argv);
  Report report("split", report_options);
  const Result<void> measured = measure_all(options, report);
  if (!measured.ok()) return give_up(measured.error().message);
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
