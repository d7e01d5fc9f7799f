// Threads that share a machine: with a core that is busy with something else, and with several
// nodes at once.

#include <pthread.h>
#include <sched.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <thread>

#include "bench/support/report.h"
#include "bench/support/synthetic_mesh.h"
#include "model/synthetic_shapes.h"
#include "topology/topology.h"

namespace mesh::bench {
namespace {

constexpr double kBar = 0.9;

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

Result<std::unique_ptr<measure::LocalMesh>> start(const SyntheticOptions& options,
                                                  std::uint32_t nodes, int threads) {
  MESH_ASSIGN_OR_RETURN(measure::LocalMeshOptions mesh, synthetic_mesh(options));
  MESH_ASSIGN_OR_RETURN(const model::RandomModelOptions shape,
                        model::synthetic_shape(options.synthetic, options.weights));
  for (std::uint32_t i = 0; i < nodes; ++i)
    mesh.stages.push_back({shape.layers * i / nodes, shape.layers * (i + 1) / nodes});
  mesh.threads = threads;
  return measure::LocalMesh::start(mesh);
}

// All threads while the last core is taken, against one thread on a quiet machine.
Result<void> measure_busy(const SyntheticOptions& options, Report& report) {
  MESH_ASSIGN_OR_RETURN(const auto alone, start(options, 1, 1));
  MESH_ASSIGN_OR_RETURN(const auto all, start(options, 1, topology::default_threads()));
  std::vector<double> ratios;
  for (std::uint32_t i = 0; i < options.pairs; ++i) {
    MESH_ASSIGN_OR_RETURN(const double quiet, streams_per_second(*alone, options, 1));
    const BusyCore busy;
    MESH_ASSIGN_OR_RETURN(const double shared, streams_per_second(*all, options, 1));
    ratios.push_back(shared / quiet);
  }
  report.at_least("all threads beside a busy core / one quiet thread", percentile(ratios, 0.5),
                  kBar, "");
  return {};
}

// Three nodes, each with all cores' threads as it would be started, against one.
Result<void> measure_nodes(const SyntheticOptions& options, Report& report) {
  MESH_ASSIGN_OR_RETURN(const auto one, start(options, 1, topology::default_threads()));
  MESH_ASSIGN_OR_RETURN(const auto three, start(options, 3, topology::default_threads()));
  for (const std::uint32_t streams : {1u, 8u}) {
    std::vector<double> ratios;
    for (std::uint32_t i = 0; i < options.pairs; ++i) {
      MESH_ASSIGN_OR_RETURN(const double single, streams_per_second(*one, options, streams));
      MESH_ASSIGN_OR_RETURN(const double triple, streams_per_second(*three, options, streams));
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
  SyntheticOptions options{.synthetic = "qwen2.5-0.5b", .weights = "q8_0"};
  add_options(app, report_options);
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  Report report("threads", report_options);
  Result<void> measured = measure_busy(options, report);
  if (measured.ok()) measured = measure_nodes(options, report);
  if (!measured.ok()) return give_up(measured.error().message);
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
