#include "bench/support/report.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "backends/backends.h"
#include "topology/topology.h"

namespace mesh::bench {

void add_options(CLI::App& app, ReportOptions& options) {
  app.add_flag("--json", options.json, "print one JSON object");
  app.add_flag("--check", options.check, "exit with 1 when a bar is missed");
}

Report::Report(std::string name, ReportOptions options)
    : name_(std::move(name)), options_(options) {
  machine_.cores = topology::this_machine().cores();
  if (const auto backend = backends::make_backend("cpu", {}); backend.ok())
    machine_.isa = (*backend)->info().isa;
  if (getloadavg(&machine_.load, 1) != 1) machine_.load = 0;
}

void Report::value(std::string name, double value, std::string unit) {
  lines_.push_back({std::move(name), std::move(unit), value, "", 0, true});
}
void Report::at_most(std::string name, double value, double bar, std::string unit) {
  lines_.push_back({std::move(name), std::move(unit), value, "<=", bar, value <= bar});
}
void Report::at_least(std::string name, double value, double bar, std::string unit) {
  lines_.push_back({std::move(name), std::move(unit), value, ">=", bar, value >= bar});
}

void Report::print_text() const {
  fmt::print("{}: {} cores, {}, load average {:.2f}\n", name_, machine_.cores, machine_.isa,
             machine_.load);
  for (const Line& line : lines_) {
    fmt::print("  {:<52} {:>12.3f} {}", line.name, line.value, line.unit);
    if (!line.sense.empty())
      fmt::print("   bar {} {:.3f}: {}", line.sense, line.bar, line.met ? "met" : "MISSED");
    fmt::print("\n");
  }
}

void Report::print_json() const {
  nlohmann::ordered_json out;
  out["bench"] = name_;
  out["machine"] = {
      {"cores", machine_.cores}, {"isa", machine_.isa}, {"load_average", machine_.load}};
  out["results"] = nlohmann::ordered_json::array();
  for (const Line& line : lines_) {
    nlohmann::ordered_json one = {{"name", line.name}, {"value", line.value}, {"unit", line.unit}};
    if (!line.sense.empty()) {
      one["bar"] = line.bar;
      one["sense"] = line.sense;
      one["met"] = line.met;
    }
    out["results"].push_back(std::move(one));
  }
  fmt::print("{}\n", out.dump(2));
}

int Report::finish() const {
  if (options_.json)
    print_json();
  else
    print_text();
  const bool met = std::all_of(lines_.begin(), lines_.end(), [](const Line& l) { return l.met; });
  return options_.check && !met ? 1 : 0;
}

int give_up(const std::string& why) {
  fmt::print(stderr, "cannot measure: {}\n", why);
  return 2;
}

}  // namespace mesh::bench
