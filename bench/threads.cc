// Threads that share a machine: with a core that is busy with something else, and with several
// nodes at once.

#include <pthread.h>
#include <sched.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <thread>

#include "bench/support/report.h"
#include "measure/speed.h"
#include "model/synthetic_shapes.h"
#include "topology/topology.h"

namespace mesh::bench {
namespace {

constexpr double kBar = 0.9;

struct Options {
  std::string synthetic = "qwen2.5-0.5b";
  std::string weights = "q8_0";
  std::uint32_t pairs = 5;
  std::uint32_t tokens = 48;
};

// Another program on the last core, while it lives.
class BusyCore {
 public:
  BusyCore()
      : thread_([this] {
          cpu_set_t last;
          CPU_ZERO(&last);
          CPU_SET(static_cast<std::size_t>(topology::default_threads() - 1), &last);
          pthread_setaffinity_np(pthread_self(), sizeof(last), &last);
          while (!stop_.load(std::memory_order_relaxed)) {
          }
        }) {}
  ~BusyCore() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {}

  Result<std::unique_ptr<measure::LocalMesh>> mesh(std::uint32_t nodes, int threads) const {
    MESH_ASSIGN_OR_RETURN(const model::RandomModelOptions shape,
                          model::synthetic_shape(options_.synthetic, options_.weights));
    measure::LocalMeshOptions mesh;
    mesh.model = [shape] { return model::make_random_model(shape); };
    for (std::uint32_t i = 0; i < nodes; ++i)
      mesh.stages.push_back({shape.layers * i / nodes, shape.layers * (i + 1) / nodes});
    mesh.threads = threads;
    mesh.pages = measure::pages_needed(speed(8));
    return measure::LocalMesh::start(mesh);
  }

  Result<double> tokens_per_second(measure::LocalMesh& mesh, std::uint32_t streams) const {
    MESH_ASSIGN_OR_RETURN(const measure::SpeedReport report,
                          measure::measure_speed(mesh, speed(streams)));
    return report.streams.front().tokens_per_second;
  }

 private:
  measure::SpeedOptions speed(std::uint32_t streams) const {
    measure::SpeedOptions speed;
    speed.prompts = {};
    speed.streams = {streams};
    speed.new_tokens = options_.tokens;
    speed.repeats = 1;
    return speed;
  }
  const Options& options_;
};

// All threads while the last core is taken, against one thread on a quiet machine.
Result<void> measure_busy(const Bench& bench, const Options& options, Report& report) {
  MESH_ASSIGN_OR_RETURN(const auto alone, bench.mesh(1, 1));
  MESH_ASSIGN_OR_RETURN(const auto all, bench.mesh(1, topology::default_threads()));
  std::vector<double> ratios;
  for (std::uint32_t i = 0; i < options.pairs; ++i) {
    MESH_ASSIGN_OR_RETURN(const double quiet, bench.tokens_per_second(*alone, 1));
    const BusyCore busy;
    MESH_ASSIGN_OR_RETURN(const double shared, bench.tokens_per_second(*all, 1));
    ratios.push_back(shared / quiet);
  }
  report.at_least("all threads beside a busy core / one quiet thread", percentile(ratios, 0.5),
                  kBar, "");
  return {};
}

// Three nodes, each with all cores' threads as it would be started, against one.
Result<void> measure_nodes(const Bench& bench, const Options& options, Report& report) {
  MESH_ASSIGN_OR_RETURN(const auto one, bench.mesh(1, topology::default_threads()));
  MESH_ASSIGN_OR_RETURN(const auto three, bench.mesh(3, topology::default_threads()));
  for (const std::uint32_t streams : {1u, 8u}) {
    std::vector<double> ratios;
    for (std::uint32_t i = 0; i < options.pairs; ++i) {
      MESH_ASSIGN_OR_RETURN(const double single, bench.tokens_per_second(*one, streams));
      MESH_ASSIGN_OR_RETURN(const double triple, bench.tokens_per_second(*three, streams));
      ratios.push_back(triple / single);
    }
    report.at_least(fmt::format("three nodes / one node, {} streams", streams),
                    percentile(ratios, 0.5), kBar, "");
  }
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("bench_threads: all threads beside a busy core, and three nodes on one machine");
  ReportOptions report_options;
  Options options;
  add_options(app, report_options);
  app.add_option("--synthetic", options.synthetic, "shape, as for toolkit-mesh bench");
  app.add_option("--weights", options.weights, "type of the weights");
  app.add_option("--pairs", options.pairs)->check(CLI::Range(1, 1000));
  app.add_option("--tokens", options.tokens)->check(CLI::Range(8, 4000));
  CLI11_PARSE(app, argc, argv);
  Report report("threads", report_options);
  const Bench bench(options);
  Result<void> measured = measure_busy(bench, options, report);
  if (measured.ok()) measured = measure_nodes(bench, options, report);
  if (!measured.ok()) return give_up(measured.error().message);
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
