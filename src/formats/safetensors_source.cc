#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"
#include "formats/placed_source.h"
#include "formats/safetensors.h"

namespace mesh::formats {
namespace {

;

Result<SafetensorsHeader> read_header(const ByteSource& file) {
  std::uint64_t length = 0;
  std::uint64_t prefix_bytes = std::min<std::uint64_t>(file.size(), sizeof(length));
  if (prefix_bytes == sizeof(length)) {
    MESH_RETURN_IF_ERROR(file.read(0, {reinterpret_cast<std::byte*>(&length), sizeof(length)}));
    // A length beyond the limits is refused by the parser, which then needs nothing more than the
    // length.
    if (length <= limits::kSafetensorsHeaderBytes && length <= file.size() - sizeof(length))
      prefix_bytes += length;
  }
  Buffer prefix(static_cast<std::size_t>(prefix_bytes));
  MESH_RETURN_IF_ERROR(file.read(0, prefix.span()));
  return parse_safetensors_header(std::as_const(prefix).span(), file.size(), file.name());
}

// tensor name -> shard file name, ascending.
using WeightMap = std::map<std::string, std::string>;

Result<WeightMap> read_weight_map(const std::string& index_path) {
  MESH_ASSIGN_OR_RETURN(const std::string text, read_text_file(index_path, limits::kJsonFileBytes));
  const auto corrupt = [&](const std::string& reason) {
    return Error(Code::kCorrupt, fmt::format("{}: {}", index_path, reason));
  };
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  simdjson::dom::object map;
  if (const auto failure = parser.parse(text).get(root); failure != simdjson::SUCCESS)
    return corrupt(simdjson::error_message(failure));
  if (root["weight_map"].get_object().get(map) != simdjson::SUCCESS)
    return corrupt("no object weight_map");
  WeightMap weights;
  for (const auto [tensor, value] : map) {
    std::string_view shard;
    if (value.get_string().get(shard) != simdjson::SUCCESS)
      return corrupt(fmt::format("weight_map: tensor {} has no file name", tensor));
    // Shards lie beside the index; a name that leads elsewhere is an attempt to read other files.
    if (shard.empty() || shard.front() == '.' ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != shard.npos)
      return corrupt(
          fmt::format("weight_map: tensor {} names the file \"{}\", which does not lie beside "
                      "the index",
                      tensor, shard));
    if (weights.size() == limits::kTensorsPerModel)
      return corrupt(fmt::format("more than {} tensors", limits::kTensorsPerModel));
    if (!weights.emplace(std::string(tensor), std::string(shard)).second)
      return corrupt(fmt::format("weight_map: tensor {} appears twice", tensor));
  }
  return weights;
}

struct Shard {
  std::size_t file = 0;
  SafetensorsHeader header;
  const SafetensorsEntry* find(const std::string& name) const {
    const auto at = std::lower_bound(
        header.entries.begin(), header.entries.end(), name,
        [](const SafetensorsEntry& e, const std::string& n) { return e.info.name < n; });
    return at != header.entries.end() && at->info.name == name ? &*at : nullptr;
  }
};

}  // namespace

Result<std::shared_ptr<TensorSource>> open_safetensors(std::unique_ptr<ByteSource> file) {
  MESH_ASSIGN_OR_RETURN(SafetensorsHeader header, read_header(*file));
  std::vector<tensor::TensorInfo> tensors;
  std::vector<Place> places;
  for (SafetensorsEntry& entry : header.entries) {
    tensors.push_back(std::move(entry.info));
    places.push_back({.file = 0, .offset = entry.file_offset});
  }
  std::vector<std::unique_ptr<ByteSource>> files;
  files.push_back(std::move(file));
  return std::shared_ptr<TensorSource>(
      std::make_shared<PlacedSource>(std::move(files), std::move(tensors), std::move(places)));
}

Result<std::shared_ptr<TensorSource>> open_safetensors_index(const std::string& index_path) {
  MESH_ASSIGN_OR_RETURN(const WeightMap weights, read_weight_map(index_path));
  std::set<std::string> names;
  for (const auto& [tensor, shard] : weights) names.insert(shard);
  if (names.size() > limits::kShardsPerModel)
    return Error(Code::kCorrupt, fmt::format("{}: {} shards, at most {} are read", index_path,
                                             names.size(), limits::kShardsPerModel));
  const std::filesystem::path directory = std::filesystem::path(index_path).parent_path();
  std::vector<std::unique_ptr<ByteSource>> files;
  std::map<std::string, Shard> shards;
  for (const std::string& name : names) {
    auto file = open_file((directory / name).string());
    if (!file.ok())
      return file.error().with_context(fmt::format("shard {} named by {}", name, index_path));
    MESH_ASSIGN_OR_RETURN(SafetensorsHeader header, read_header(**file));
    shards[name] = Shard{.file = files.size(), .header = std::move(header)};
    files.push_back(std::move(file).value());
  }
  std::vector<tensor::TensorInfo> tensors;
  std::vector<Place> places;
  for (const auto& [tensor, name] : weights) {
    const Shard& shard = shards.at(name);
    const SafetensorsEntry* entry = shard.find(tensor);
    if (entry == nullptr)
      return Error(Code::kCorrupt, fmt::format("{}: tensor {} is said to be in {}, which lacks it",
                                               index_path, tensor, name));
    tensors.push_back(entry->info);
    places.push_back({.file = shard.file, .offset = entry->file_offset});
  }
  return std::shared_ptr<TensorSource>(
      std::make_shared<PlacedSource>(std::move(files), std::move(tensors), std::move(places)));
}

}  // namespace mesh::formats
