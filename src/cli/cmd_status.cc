// toolkit-mesh status: what any node knows of the mesh.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "cli/cmd_watch.h"
#include "cli/console.h"
#include "cli/coverage.h"
#include "cli/http_client.h"
#include "cli/options.h"

namespace mesh::cli {
namespace {

using Json = nlohmann::json;

std::string layers_text(const Json& node) {
  const std::uint64_t begin = node["layers"][0], end = node["layers"][1];
  if (begin == end) return "–";
  return end == begin + 1 ? fmt::format("{}", begin) : fmt::format("{}–{}", begin, end - 1);
}

// Columns count characters, not bytes: names and dashes may be multi-byte.
std::string padded(const std::string& text, std::size_t width) {
  const std::size_t shown = shown_width(text);
  return text + std::string(shown < width ? width - shown : 1, ' ');
}

void print_table(const Json& status) {
  const Json& mesh = status["mesh"];
  const Json& model = status["model"];
  const std::string name = model.value("name", "");
  fmt::print("model {} · {} layers · plan {} · {}\n", name.empty() ? "(not known yet)" : name,
             model.value("layers", 0), mesh.value("epoch", std::uint64_t{0}),
             mesh.value("ready", false) ? "ready" : "not ready: " + mesh.value("waiting_for", ""));
  fmt::print("{}{}{}{}{}{}{}{}\n", padded("node", 18), padded("layers", 9), padded("weights", 10),
             padded("KV pages", 14), padded("rows", 10), padded("tok/s", 8), padded("state", 10),
             "device");
  for (const Json& node : status["nodes"]) {
    const std::string self = node.value("self", false) ? " *" : "";
    const double rate = node.value("tokens_per_s", 0.0);
    fmt::print(
        "{}{}{}{}{}{}{}{}\n", padded(node.value("name", "") + self, 18),
        padded(layers_text(node), 9),
        padded(shown_bytes(node.value("bytes_loaded", std::uint64_t{0})), 10),
        padded(fmt::format("{}/{}", node.value("pages_used", 0), node.value("pages_total", 0)), 14),
        padded(fmt::format("{}", node.value("rows_computed", std::uint64_t{0})), 10),
        padded(rate > 0 ? fmt::format("{:.0f}", rate) : "–", 8),
        padded(node.value("state", ""), 10), node.value("device", ""));
    if (const std::string problem = node.value("problem", ""); !problem.empty())
      fmt::print("  ✗ {}\n", problem);
  }
}

int unreachable(const Error& why) {
  fmt::print(stderr, "✗ {}\n", why.message);
  return why.code == Code::kInvalidArgument ? kUsage : kUnreachable;
}

// Counters reach a node by gossip within a second; so a mismatch gets a few looks.
int check(const StatusOptions& options) {
  std::string why;
  for (int attempt = 0; attempt < 20; ++attempt) {
    const Result<HttpReply> reply = http_request(options.target, {.path = "/mesh/status"});
    if (!reply.ok()) return unreachable(reply.error());
    if (reply->status != 200) {
      why = error_sentence(*reply);
    } else {
      const Result<std::string> covered = check_coverage(reply->body);
      if (covered.ok()) {
        fmt::print("✓ {}\n", *covered);
        return kDone;
      }
      why = covered.error().message;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(250));
  }
  fmt::print(stderr, "✗ {}\n", why);
  return kFailed;
}

}  // namespace

int run_status(const StatusOptions& options) {
  if (options.check_coverage) return check(options);
  if (options.watch) return run_watch(options);
  const Result<HttpReply> reply = http_request(options.target, {.path = "/mesh/status"});
  if (!reply.ok()) return unreachable(reply.error());
  if (reply->status != 200) {
    fmt::print(stderr, "✗ {}\n", error_sentence(*reply));
    return kFailed;
  }
  const Json status = Json::parse(reply->body, nullptr, false);
  if (!status.is_object()) {
    fmt::print(stderr, "✗ the answer is not a mesh status; is that a toolkit-mesh node?\n");
    return kFailed;
  }
  if (options.json) {
    fmt::print("{}\n", status.dump(2));
    return kDone;
  }
  try {
    print_table(status);
  } catch (const Json::exception& error) {
    fmt::print(stderr, "✗ the node speaks another status format: {}\n", error.what());
    return kFailed;
  }
  return kDone;
}

}  // namespace mesh::cli
