// What a cut gains: two nodes with one thread each against one node with one.

#include <CLI/CLI.hpp>
#include <functional>

#include "bench/support/report.h"
#include "bench/support/synthetic_mesh.h"

namespace mesh::bench {
namespace {

using measure::LocalMesh;

constexpr double kPromptBar = 1.7;
constexpr double kStreamsBar = 0.93;
constexpr double kStreamBar = 0.99;

// kPlanned: what the planner gives to nodes of equal memory. It weighs the head as decode does,
// where the whole of it is read for every token. kEven: equal numbers of layers, the cut for
// prompts, of which only the last row sees the head.
enum class Cut { kPlanned, kEven };

Result<std::unique_ptr<LocalMesh>> start(const SyntheticOptions& options, std::uint32_t nodes,
                                         int threads, Cut cut) {
  // Room for all prompts that are asked for at once.
  MESH_ASSIGN_OR_RETURN(measure::LocalMeshOptions mesh, synthetic_mesh(options, 4 * 2048));
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles model, mesh.model());
  MESH_ASSIGN_OR_RETURN(mesh.stages, measure::planned_stages(std::move(model), nodes));
  if (cut == Cut::kEven) {
    const std::uint32_t layers = mesh.stages.back().end;
    for (std::uint32_t i = 0; i < nodes; ++i)
      mesh.stages[i] = {layers * i / nodes, layers * (i + 1) / nodes};
  }
  mesh.threads = threads;
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

Result<double> prompt_gain(LocalMesh& two, LocalMesh& one, std::uint32_t pairs, std::uint32_t count,
                           std::uint32_t tokens) {
  return ratio(two, one, pairs,
               [count, tokens](LocalMesh& mesh) { return prompts(mesh, count, tokens); });
}

Result<void> measure_prompts(LocalMesh& one, const SyntheticOptions& options, Report& report) {
  MESH_ASSIGN_OR_RETURN(const auto two, start(options, 2, 1, Cut::kEven));
  MESH_RETURN_IF_ERROR(prompts(*two, 4, 128));  // warms up
  for (const auto& [count, tokens] : {std::pair{4u, 512u}, std::pair{1u, 2048u}}) {
    MESH_ASSIGN_OR_RETURN(const double gain, prompt_gain(*two, one, options.pairs, count, tokens));
    report.at_least(fmt::format("two even stages / one: {} x {} tokens of prompt", count, tokens),
                    gain, kPromptBar, "");
  }
  return {};
}

Result<void> measure_streams(LocalMesh& one, const SyntheticOptions& options, Report& report) {
  const auto of_streams = [&](std::uint32_t count) {
    return [&options, count](LocalMesh& mesh) { return streams_per_second(mesh, options, count); };
  };
  MESH_ASSIGN_OR_RETURN(const auto two, start(options, 2, 1, Cut::kPlanned));
  MESH_RETURN_IF_ERROR(prompts(*two, 4, 128));  // warms up
  MESH_ASSIGN_OR_RETURN(const double alone, ratio(*two, one, options.pairs, of_streams(1)));
  report.at_least("two stages / one: 1 stream", alone, kStreamBar, "");
  MESH_ASSIGN_OR_RETURN(const double eight, ratio(*two, one, options.pairs, of_streams(8)));
  MESH_ASSIGN_OR_RETURN(const auto wide, start(options, 1, 2, Cut::kPlanned));
  MESH_ASSIGN_OR_RETURN(const double scaling, ratio(*wide, one, options.pairs, of_streams(8)));
  report.value("two stages / one: 8 streams", eight, "");
  report.value("two threads / one: 8 streams", scaling, "");
  report.at_least("8 streams: gain of the cut / gain of a thread", eight / scaling, kStreamsBar,
                  "");
  MESH_ASSIGN_OR_RETURN(const double planned, prompt_gain(*two, one, options.pairs, 4, 512));
  report.value("two stages / one: 4 x 512 tokens of prompt", planned, "");
  return {};
}

Result<void> measure_all(const SyntheticOptions& options, Report& report) {
  MESH_ASSIGN_OR_RETURN(const auto one, start(options, 1, 1, Cut::kPlanned));
  MESH_RETURN_IF_ERROR(prompts(*one, 4, 128));  // warms up
  MESH_RETURN_IF_ERROR(measure_prompts(*one, options, report));
  return measure_streams(*one, options, report);
}

int run(int argc, char** argv) {
  CLI::App app("bench_split: two stages of one thread each against one stage of one thread");
  ReportOptions report_options;
  SyntheticOptions options{.synthetic = "llama-3.2-1b", .weights = "q8_0"};
  add_options(app, report_options);
  add_options(app, options);
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
