#include "cli/watch_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/console.h"

namespace mesh::cli {
namespace {

using Json = nlohmann::json;

std::string plain(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return text;
}

std::string layers_text(const WatchNode& node) {
  if (node.begin >= node.end) return "–";
  return node.end == node.begin + 1 ? fmt::format("{}", node.begin)
                                    : fmt::format("{}–{}", node.begin, node.end - 1);
}

std::string pages_text(const WatchNode& node) {
  if (node.pages_total == 0) return "–";
  const double share = static_cast<double>(node.pages_used) / static_cast<double>(node.pages_total);
  return fmt::format("{} {:.0f}%", bar(share, 8), share * 100);
}

std::string rtt_text(const WatchNode& node) {
  return node.self || node.rtt_ms <= 0 ? "–" : fmt::format("{:.1f} ms", node.rtt_ms);
}

std::string coloured(const std::string& text, const char* code, bool colour) {
  return colour ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text;
}

// Width 0: the column is left out.
struct Columns {
  std::size_t node = 14, device = 0, layers = 7, weights = 8, pages = 13, rtt = 7, state = 9;
};

std::size_t total(const Columns& c) {
  std::size_t width = 0;
  for (const std::size_t w : {c.node, c.device, c.layers, c.weights, c.pages, c.rtt, c.state})
    width += w > 0 ? w + 1 : 0;
  return width;
}

Columns choose_columns(std::size_t width) {
  Columns c;
  if (width >= 100) c.node = 20;
  if (total(c) > width) c.weights = c.rtt = 0;
  if (total(c) > width) c.node = 10;
  const std::size_t left = width - std::min(width, total(c));
  if (left >= 10 && c.weights > 0) c.device = std::min<std::size_t>(left - 1, 40);
  return c;
}

std::string row(const Columns& c, const std::vector<std::string>& cells) {
  const std::size_t widths[] = {c.node, c.device, c.layers, c.weights, c.pages, c.rtt, c.state};
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i)
    if (widths[i] > 0) line += " " + fitted(cells[i], widths[i]);
  return line;
}

std::string cut(const std::string& line, std::size_t width) {
  return shown_width(line) > width ? fitted(line, width) : line;
}

std::string header(const WatchMesh& mesh, const WatchFrame& frame) {
  const std::string left = fmt::format(
      " toolkit-mesh · {} · {} node{} · {} · plan {} · {}", mesh.cluster, mesh.nodes.size(),
      mesh.nodes.size() == 1 ? "" : "s", mesh.model.empty() ? "no model yet" : mesh.model,
      mesh.epoch, mesh.ready ? "ready" : "not ready");
  const std::size_t keys = frame.keys.empty() ? 0 : shown_width(frame.keys) + 2;
  if (keys == 0 || keys >= frame.width) return cut(left, frame.width);
  return fitted(left, frame.width - keys) + "  " + frame.keys;
}

void add_node(std::vector<std::string>& lines, const WatchNode& node, const Columns& columns,
              const WatchFrame& frame) {
  const std::string weights = node.bytes_loaded > 0 ? shown_bytes(node.bytes_loaded) : "–";
  std::string line =
      cut(row(columns, {node.name + (node.self ? " *" : ""), node.device, layers_text(node),
                        weights, pages_text(node), rtt_text(node)}),
          frame.width);
  const char* colour = node.state == "ready"                            ? "32"
                       : node.state == "lost" || node.state == "failed" ? "31"
                                                                        : "33";
  const std::string state = cut(node.state, columns.state);
  const std::size_t used = shown_width(line) + 1;
  if (used < frame.width)
    line += " " + coloured(cut(state, frame.width - used), colour, frame.colour);
  lines.push_back(line);
  if (!node.problem.empty())
    lines.push_back(cut(fmt::format("   ✗ {}", node.problem), frame.width));
}

std::string totals(const WatchMesh& mesh, const WatchFrame& frame) {
  const std::string text = fmt::format(" requests {} running, {} waiting   {:.0f} tok/s ",
                                       mesh.running, mesh.waiting, mesh.tokens_per_s());
  const std::size_t used = shown_width(text);
  const std::size_t left = frame.width > used ? frame.width - used : 0;
  return cut(text + sparkline(frame.rates, std::min<std::size_t>(left, 40)), frame.width);
}

}  // namespace

double WatchMesh::tokens_per_s() const {
  double sum = 0;
  for (const WatchNode& node : nodes) sum += node.tokens_per_s;
  return sum;
}

Result<WatchMesh> parse_watch_mesh(std::string_view status_json) {
  try {
    const Json status = Json::parse(status_json);
    const Json& mesh = status.at("mesh");
    WatchMesh out;
    out.cluster = plain(mesh.value("cluster", ""));
    out.waiting_for = plain(mesh.value("waiting_for", ""));
    out.epoch = mesh.value("epoch", std::uint64_t{0});
    out.ready = mesh.value("ready", false);
    out.running = mesh.value("requests_running", std::uint64_t{0});
    out.waiting = mesh.value("requests_waiting", std::uint64_t{0});
    out.model = plain(status.at("model").value("name", ""));
    for (const Json& n : status.at("nodes")) {
      WatchNode node;
      node.name = plain(n.value("name", ""));
      node.device = plain(n.value("device", ""));
      node.state = plain(n.value("state", ""));
      node.problem = plain(n.value("problem", ""));
      node.self = n.value("self", false);
      node.begin = n.at("layers").at(0).get<std::uint64_t>();
      node.end = n.at("layers").at(1).get<std::uint64_t>();
      node.bytes_loaded = n.value("bytes_loaded", std::uint64_t{0});
      node.pages_used = n.value("pages_used", std::uint64_t{0});
      node.pages_total = n.value("pages_total", std::uint64_t{0});
      node.rtt_ms = n.value("rtt_ms", 0.0);
      node.tokens_per_s = n.value("tokens_per_s", 0.0);
      out.nodes.push_back(std::move(node));
    }
    return out;
  } catch (const Json::exception& error) {
    return Error(Code::kCorrupt, fmt::format("the answer is no mesh status: {}", error.what()));
  }
}

std::string sparkline(const std::vector<double>& values, std::size_t width) {
  static constexpr const char* kCells[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const std::size_t first = values.size() > width ? values.size() - width : 0;
  double most = 0;
  for (std::size_t i = first; i < values.size(); ++i) most = std::max(most, values[i]);
  std::string out;
  for (std::size_t i = first; i < values.size(); ++i) {
    const double share = most > 0 ? std::clamp(values[i] / most, 0.0, 1.0) : 0;
    out += kCells[static_cast<std::size_t>(std::lround(share * 7))];
  }
  return out;
}

std::vector<std::string> render_watch(const WatchFrame& frame) {
  std::vector<std::string> lines;
  if (frame.mesh.has_value()) {
    const WatchMesh& mesh = *frame.mesh;
    const Columns columns = choose_columns(frame.width);
    lines.push_back(coloured(header(mesh, frame), "1", frame.colour));
    lines.push_back(
        cut(row(columns, {"node", "device", "layers", "weights", "KV pages", "rtt"}) + " state",
            frame.width));
    for (const WatchNode& node : mesh.nodes) add_node(lines, node, columns, frame);
    lines.push_back(totals(mesh, frame));
    if (!mesh.ready && !mesh.waiting_for.empty())
      lines.push_back(cut(fmt::format(" … {}", mesh.waiting_for), frame.width));
  }
  if (!frame.lost.empty())
    lines.push_back(coloured(
        cut(fmt::format(" ✗ connection lost {} s ago, trying again: {}", frame.lost_s, frame.lost),
            frame.width),
        "31", frame.colour));
  return lines;
}

}  // namespace mesh::cli
