#pragma once
// What every benchmark prints: facts of the machine, numbers, and numbers with a bar.

#include <string>
#include <vector>

#include "measure/real_time.h"

namespace CLI {
class App;
}

namespace mesh::bench {

using measure::now;
using measure::percentile;
using measure::thread_seconds;

struct ReportOptions {
  bool json = false;
  bool check = false;
};
void add_options(CLI::App& app, ReportOptions& options);

class Report {
 public:
  // Reads the machine's load now, before the benchmark adds its own.
  Report(std::string name, ReportOptions options);
  void value(std::string name, double value, std::string unit);
  void at_most(std::string name, double value, double bar, std::string unit);
  void at_least(std::string name, double value, double bar, std::string unit);
  // Prints; 1 when a bar is missed and --check was given, else 0.
  int finish() const;

 private:
  struct Line {
    std::string name, unit;
    double value = 0;
    std::string sense;  // "<=", ">=", "" without a bar
    double bar = 0;
    bool met = true;
  };
  struct Machine {
    int cores = 0;
    std::string isa;
    double load = 0;  // of the last minute
  };
  void print_text() const;
  void print_json() const;

  std::string name_;
  ReportOptions options_;
  Machine machine_;
  std::vector<Line> lines_;
};

// main() of a benchmark that cannot measure: prints why and returns 2.
int give_up(const std::string& why);

}  // namespace mesh::bench
