#include "base/metrics.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace mesh::metrics {
namespace {

// a="x",b="y" with the escapes of the exposition format; "" without labels.
std::string label_text(const Labels& labels) {
  std::string out;
  for (const auto& [name, value] : labels) {
    out += fmt::format("{}{}=\"", out.empty() ? "" : ",", name);
    for (char c : value) {
      if (c == '\\' || c == '"') out += '\\';
      if (c == '\n')
        out += "\\n";
      else
        out += c;
    }
    out += '"';
  }
  return out;
}

std::string braced(const std::string& labels) {
  return labels.empty() ? "" : "{" + labels + "}";
}

void append_histogram(std::string& out, const std::string& name, const std::string& labels,
                      const Histogram& histogram) {
  const std::string comma = labels.empty() ? "" : labels + ",";
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < histogram.bounds().size(); ++i) {
    below += histogram.counts()[i];
    out += fmt::format("{}_bucket{{{}le=\"{}\"}} {}\n", name, comma, histogram.bounds()[i], below);
  }
  out += fmt::format("{}_bucket{{{}le=\"+Inf\"}} {}\n", name, comma, histogram.count());
  out += fmt::format("{}_sum{} {}\n", name, braced(labels), histogram.sum());
  out += fmt::format("{}_count{} {}\n", name, braced(labels), histogram.count());
}

}  // namespace

void Histogram::observe(double value) {
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  ++counts_[static_cast<std::size_t>(at - bounds_.begin())];
  ++count_;
  sum_ += value;
}

std::vector<double> latency_bounds() {
  return {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60};
}

std::vector<double> step_bounds() {
  return {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5};
}

Registry::Family& Registry::family(std::string_view name, std::string_view help, Kind kind) {
  auto found = families_.find(name);
  if (found == families_.end()) {
    found = families_.emplace(std::string(name), Family{}).first;
    found->second.kind = kind;
    found->second.help = std::string(help);
  }
  MESH_CHECK(found->second.kind == kind, "metric {} is of another kind", name);
  return found->second;
}

Counter& Registry::counter(std::string_view name, std::string_view help, const Labels& labels) {
  return family(name, help, Kind::kCounter).counters[label_text(labels)];
}

Gauge& Registry::gauge(std::string_view name, std::string_view help, const Labels& labels) {
  return family(name, help, Kind::kGauge).gauges[label_text(labels)];
}

Histogram& Registry::histogram(std::string_view name, std::string_view help,
                               std::vector<double> bounds, const Labels& labels) {
  Family& all = family(name, help, Kind::kHistogram);
  return all.histograms.try_emplace(label_text(labels), std::move(bounds)).first->second;
}

std::string Registry::render() const {
  for (const auto& refresh : refreshers_) refresh();
  std::string out;
  for (const auto& [name, all] : families_) {
    constexpr std::string_view kKinds[] = {"counter", "gauge", "histogram"};
    out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, all.help, name,
                       kKinds[static_cast<int>(all.kind)]);
    for (const auto& [labels, one] : all.counters)
      out += fmt::format("{}{} {}\n", name, braced(labels), one.value());
    for (const auto& [labels, one] : all.gauges)
      out += fmt::format("{}{} {}\n", name, braced(labels), one.value());
    for (const auto& [labels, one] : all.histograms) append_histogram(out, name, labels, one);
  }
  return out;
}

}  // namespace mesh::metrics
