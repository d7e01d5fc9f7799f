#include "cli/coverage.h"

#include <cstdint>
#include <nlohmann/json.hpp>

namespace mesh::cli {
namespace {

using Json = nlohmann::json;

Result<std::string> check(const Json& status) {
  auto wrong = [](std::string why) { return Error(Code::kInvalidArgument, std::move(why)); };
  const std::uint64_t layers = status.at("mesh").at("layers");
  if (layers == 0) return wrong("the mesh does not know its model yet");
  std::uint64_t next = 0, bytes = 0, rows = 0;
  std::size_t stages = 0;
  // Nodes come ordered by their first layer.
  for (const Json& node : status.at("nodes")) {
    const std::uint64_t begin = node.at("layers").at(0), end = node.at("layers").at(1);
    if (begin == end || node.at("state") != "ready") continue;
    const std::string name = node.at("name");
    if (begin != next)
      return wrong(fmt::format("layers {} of node {} do not follow on {}: layers are {}",
                               fmt::format("{}:{}", begin, end), name, next,
                               begin < next ? "held twice" : "missing"));
    const std::uint64_t loaded = node.at("bytes_loaded"), expected = node.at("bytes_expected"),
                        computed = node.at("rows_computed");
    if (loaded == 0 || loaded != expected)
      return wrong(fmt::format("node {} loaded {} bytes, its layers {}:{} weigh {}", name, loaded,
                               begin, end, expected));
    if (computed == 0) return wrong(fmt::format("node {} has computed no row", name));
    if (stages > 0 && computed != rows)
      return wrong(
          fmt::format("node {} computed {} rows, the stages before it {}", name, computed, rows));
    next = end;
    bytes += loaded;
    rows = computed;
    ++stages;
  }
  if (next != layers) return wrong(fmt::format("layers {}:{} have no ready node", next, layers));
  return fmt::format(
      "{} nodes hold layers 0:{} without overlap, {} bytes in all; each computed {} rows", stages,
      layers, bytes, rows);
}

}  // namespace

Result<std::string> check_coverage(std::string_view status_json) {
  const Json status = Json::parse(status_json, nullptr, false);
  if (!status.is_object()) return Error(Code::kCorrupt, "the status is not a JSON object");
  try {
    return check(status);
  } catch (const Json::exception& error) {
    return Error(Code::kCorrupt, fmt::format("the status has another format: {}", error.what()));
  }
}

}  // namespace mesh::cli
