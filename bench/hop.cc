// The time of one hop: STEP from one control loop to another, over mutual TLS on loopback.

#include <CLI/CLI.hpp>

#include "bench/support/hop_time.h"
#include "bench/support/report.h"

namespace mesh::bench {
namespace {

constexpr double kBarMicroseconds = 150;

int run(int argc, char** argv) {
  CLI::App app("bench_hop: the time of one hop on loopback");
  ReportOptions report_options;
  HopOptions hop;
  std::int64_t pause_us = 1000;
  add_options(app, report_options);
  app.add_option("--samples", hop.samples, "hops per number of rows")
      ->check(CLI::Range(1, 1000000));
  app.add_option("--pause-us", pause_us, "between two hops")->check(CLI::Range(0, 1000000));
  CLI11_PARSE(app, argc, argv);
  hop.pause = std::chrono::microseconds(pause_us);
  Report report("hop", report_options);
  for (const std::size_t rows : {1u, 8u}) {
    hop.rows = rows;
    const auto times = hop_times(hop);
    if (!times.ok()) return give_up(times.error().message);
    const std::string name = fmt::format("STEP of {} rows, hidden 1024 f32", rows);
    report.at_most(name + ", p50", percentile(*times, 0.5), kBarMicroseconds, "us");
    report.value(name + ", p99", percentile(*times, 0.99), "us");
  }
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
