#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "formats/safetensors.h"

namespace mesh::formats {
namespace {

namespace dom = simdjson::dom;

constexpr std::uint64_t kLengthBytes = 8;

Error corrupt(const std::string& name, const std::string& reason) {
  return Error(Code::kCorrupt, fmt::format("{}: {}", name, reason));
}

Error bad_tensor(const std::string& file, std::string_view tensor, const std::string& reason) {
  return Error(Code::kCorrupt, fmt::format("{}: tensor {}: {}", file, tensor, reason));
}

// One tensor of the header; data_offsets count from the end of the header.
struct Fields {
  std::optional<std::string_view> dtype;
  std::optional<dom::element> shape;
  std::optional<dom::element> data_offsets;
};

Result<Fields> collect_fields(const std::string& file, std::string_view tensor,
                              dom::element value) {
  dom::object object;
  if (value.get_object().get(object) != simdjson::SUCCESS)
    return bad_tensor(file, tensor, "not an object");
  Fields fields;
  for (const auto [key, element] : object) {
    if (key == "dtype") {
      std::string_view text;
      if (fields.dtype || element.get_string().get(text) != simdjson::SUCCESS)
        return bad_tensor(file, tensor, "dtype is repeated or no string");
      fields.dtype = text;
    } else if (key == "shape") {
      if (fields.shape) return bad_tensor(file, tensor, "shape is repeated");
      fields.shape = element;
    } else if (key == "data_offsets") {
      if (fields.data_offsets) return bad_tensor(file, tensor, "data_offsets is repeated");
      fields.data_offsets = element;
    }
  }
  if (!fields.dtype || !fields.shape || !fields.data_offsets)
    return bad_tensor(file, tensor, "dtype, shape or data_offsets is missing");
  return fields;
}

// Non-negative integers below 2^63, at most `count_max` of them; nullopt for anything else.
std::optional<std::vector<std::int64_t>> integers(dom::element value, std::size_t count_max) {
  dom::array array;
  if (value.get_array().get(array) != simdjson::SUCCESS) return std::nullopt;
  std::vector<std::int64_t> numbers;
  for (const dom::element element : array) {
    std::int64_t number = 0;
    if (element.get_int64().get(number) != simdjson::SUCCESS || number < 0 ||
        numbers.size() == count_max)
      return std::nullopt;
    numbers.push_back(number);
  }
  return numbers;
}

struct Extent {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::size_t entry = 0;
};

Result<SafetensorsEntry> parse_entry(const std::string& file, std::string_view tensor,
                                     dom::element value, std::uint64_t data_bytes, Extent& extent) {
  MESH_ASSIGN_OR_RETURN(const Fields fields, collect_fields(file, tensor, value));
  const auto dtype = tensor::dtype_from_name(*fields.dtype);
  if (!dtype)
    return Error(Code::kUnsupported, fmt::format("{}: tensor {}: element type {} is not known",
                                                 file, tensor, *fields.dtype));
  auto shape = integers(*fields.shape, limits::kTensorRank);
  if (!shape)
    return bad_tensor(
        file, tensor,
        fmt::format("shape is not a list of at most {} extents", limits::kTensorRank));
  const auto offsets = integers(*fields.data_offsets, 2);
  if (!offsets || offsets->size() != 2)
    return bad_tensor(file, tensor, "data_offsets is not a pair of offsets");
  const auto begin = static_cast<std::uint64_t>((*offsets)[0]);
  const auto end = static_cast<std::uint64_t>((*offsets)[1]);
  if (begin > end || end > data_bytes)
    return bad_tensor(
        file, tensor,
        fmt::format("data_offsets [{}, {}] in {} bytes of data", begin, end, data_bytes));
  const auto bytes = checked_bytes(*shape, *dtype);
  if (!bytes || *bytes != end - begin)
    return bad_tensor(file, tensor,
                      fmt::format("{} of {} needs {} bytes, data_offsets span {}", *fields.dtype,
                                  tensor::shape_text(*shape),
                                  bytes ? std::to_string(*bytes) : "2^63 or more", end - begin));
  extent.begin = begin;
  extent.end = end;
  return SafetensorsEntry{
      .info = {.name = std::string(tensor), .dtype = *dtype, .shape = std::move(*shape)}};
}

Result<SafetensorsMetadata> parse_metadata(const std::string& file, dom::element value) {
  dom::object object;
  if (value.get_object().get(object) != simdjson::SUCCESS)
    return corrupt(file, "__metadata__ is not an object");
  SafetensorsMetadata metadata;
  for (const auto [key, element] : object) {
    std::string_view text;
    if (element.get_string().get(text) != simdjson::SUCCESS)
      return corrupt(file, fmt::format("__metadata__ entry {} is not a string", key));
    if (!metadata.emplace(std::string(key), std::string(text)).second)
      return corrupt(file, fmt::format("__metadata__ entry {} is repeated", key));
  }
  return metadata;
}

// The extents must tile [0, data_bytes).
Result<void> check_tiling(const std::string& file, const std::vector<SafetensorsEntry>& entries,
                          std::vector<Extent> extents, std::uint64_t data_bytes) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t at = 0;
  for (const Extent& extent : extents) {
    const std::string& tensor = entries[extent.entry].info.name;
    if (extent.begin < at)
      return bad_tensor(file, tensor,
                        fmt::format("overlaps the one before it by {} bytes", at - extent.begin));
    if (extent.begin > at)
      return bad_tensor(file, tensor,
                        fmt::format("{} bytes before it belong to no tensor", extent.begin - at));
    at = extent.end;
  }
  if (at != data_bytes)
    return corrupt(file,
                   fmt::format("the tensors end at byte {} of {} bytes of data", at, data_bytes));
  return {};
}

Result<std::uint64_t> header_length(std::span<const std::byte> prefix, std::uint64_t file_size,
                                    const std::string& name) {
  if (file_size < kLengthBytes || prefix.size() < kLengthBytes)
    return corrupt(name, fmt::format("{} bytes are too short for a safetensors file", file_size));
  std::uint64_t length = 0;
  std::memcpy(&length, prefix.data(), sizeof(length));
  if (length > limits::kSafetensorsHeaderBytes)
    return corrupt(name,
                   fmt::format("header length {}, at most {} are read; is it a safetensors file?",
                               length, limits::kSafetensorsHeaderBytes));
  if (length > file_size - kLengthBytes)
    return corrupt(name, fmt::format("header length {} in a file of {} bytes", length, file_size));
  return length;
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> prefix,
                                                   std::uint64_t file_size,
                                                   const std::string& name) {
  MESH_ASSIGN_OR_RETURN(const std::uint64_t length, header_length(prefix, file_size, name));
  if (prefix.size() - kLengthBytes < length)
    return corrupt(name, fmt::format("{} bytes given of a header of {}",
                                     prefix.size() - kLengthBytes, length));
  const std::string_view text(reinterpret_cast<const char*>(prefix.data()) + kLengthBytes,
                              static_cast<std::size_t>(length));
  if (text.empty() || text.front() != '{') return corrupt(name, "the header does not start with {");

  dom::parser parser;
  dom::object object;
  const simdjson::padded_string padded(text);
  if (const auto failure = parser.parse(padded).get_object().get(object);
      failure != simdjson::SUCCESS)
    return corrupt(name, fmt::format("header: {}", simdjson::error_message(failure)));

  SafetensorsHeader header;
  header.data_start = kLengthBytes + length;
  const std::uint64_t data_bytes = file_size - header.data_start;
  std::vector<Extent> extents;
  bool has_metadata = false;
  for (const auto [key, value] : object) {
    if (key == "__metadata__") {
      if (std::exchange(has_metadata, true)) return corrupt(name, "__metadata__ is repeated");
      MESH_ASSIGN_OR_RETURN(header.metadata, parse_metadata(name, value));
      continue;
    }
    if (header.entries.size() == limits::kTensorsPerModel)
      return corrupt(name, fmt::format("more than {} tensors", limits::kTensorsPerModel));
    Extent extent{.entry = header.entries.size()};
    MESH_ASSIGN_OR_RETURN(SafetensorsEntry entry,
                          parse_entry(name, key, value, data_bytes, extent));
    entry.file_offset = header.data_start + extent.begin;
    header.entries.push_back(std::move(entry));
    extents.push_back(extent);
  }
  MESH_RETURN_IF_ERROR(check_tiling(name, header.entries, std::move(extents), data_bytes));

  const auto by_name = [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return a.info.name < b.info.name;
  };
  std::sort(header.entries.begin(), header.entries.end(), by_name);
  for (std::size_t i = 1; i < header.entries.size(); ++i)
    if (header.entries[i - 1].info.name == header.entries[i].info.name)
      return bad_tensor(name, header.entries[i].info.name, "appears twice");
  return header;
}

}  // namespace mesh::formats
