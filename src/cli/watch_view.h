#pragma once
// status --watch as lines of text: a pure function of the last answer of GET /mesh/status and of
// the rates seen so far.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mesh::cli {

struct WatchNode {
  std::string name, device, state, problem;
  bool self = false;
  std::uint64_t begin = 0, end = 0;  // layers
  std::uint64_t bytes_loaded = 0, pages_used = 0, pages_total = 0;
  double rtt_ms = 0, tokens_per_s = 0;
};

struct WatchMesh {
  std::string cluster, model, waiting_for;
  std::uint64_t epoch = 0, running = 0, waiting = 0;
  bool ready = false;
  std::vector<WatchNode> nodes;
  double tokens_per_s() const;  // of all nodes' own requests
};

// Control characters of names become '?'. Errors: corrupt for another format.
Result<WatchMesh> parse_watch_mesh(std::string_view status_json);

struct WatchFrame {
  std::optional<WatchMesh> mesh;  // the last one that came; none yet
  std::vector<double> rates;      // tokens/s of successive answers, newest last
  std::string lost;               // why there is no answer now; "" when there is
  std::uint64_t lost_s = 0;       // since when
  std::string keys = "q quit";    // at the right of the first line; "" without a terminal
  std::size_t width = 80;
  bool colour = false;
};

// "▁▂█" scaled to the largest value; at most `width` newest values.
std::string sparkline(const std::vector<double>& values, std::size_t width);

// No line is wider than frame.width, escape sequences not counted.
std::vector<std::string> render_watch(const WatchFrame& frame);

}  // namespace mesh::cli
