#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "formats/gguf.h"
#include "formats/gguf_types.h"
#include "formats/placed_source.h"

namespace mesh::formats {
namespace {

;

// NAME-00001-of-00002.gguf: the name, and the numbers as they are counted in it, from 1.
struct SplitName {
  std::string stem;
  std::uint64_t part = 0;
  std::uint64_t count = 0;
};

constexpr std::string_view kSuffix = ".gguf";
constexpr std::size_t kDigits = 5;

std::string split_suffix(std::uint64_t part, std::uint64_t count) {
  return fmt::format("-{:05}-of-{:05}{}", part, count, kSuffix);
}

std::optional<std::uint64_t> whole_number(std::string_view digits) {
  std::uint64_t value = 0;
  const char* const end = digits.data() + digits.size();
  const auto [at, failure] = std::from_chars(digits.data(), end, value);
  if (failure != std::errc() || at != end) return std::nullopt;
  return value;
}

std::optional<SplitName> split_name(std::string_view file_name) {
  const std::size_t length = split_suffix(0, 0).size();
  if (file_name.size() < length) return std::nullopt;
  const std::string_view tail = file_name.substr(file_name.size() - length);
  const auto part = whole_number(tail.substr(1, kDigits));
  const auto count = whole_number(tail.substr(length - kSuffix.size() - kDigits, kDigits));
  if (!part || !count || *part == 0 || *part > *count || tail != split_suffix(*part, *count))
    return std::nullopt;
  return SplitName{.stem = std::string(file_name.substr(0, file_name.size() - length)),
                   .part = *part,
                   .count = *count};
}

struct Part {
  std::unique_ptr<ByteSource> file;
  GgufHeader header;
};

Result<Part> open_part(const std::string& path) {
  Part part;
  MESH_ASSIGN_OR_RETURN(part.file, open_file(path));
  MESH_ASSIGN_OR_RETURN(part.header, read_gguf_header(*part.file));
  return part;
}

Error corrupt(const std::string& path, const std::string& reason) {
  return Error(Code::kCorrupt, fmt::format("{}: {}", path, reason));
}

// A key of a file, or nullopt without it.
Result<std::optional<std::uint64_t>> optional_whole(const Part& part, std::string_view key) {
  if (!part.header.metadata.has(key)) return std::optional<std::uint64_t>();
  const auto value = part.header.metadata.whole(key);
  if (!value.ok()) return value.error().with_context(part.file->name());
  return std::optional<std::uint64_t>(*value);
}

// What the name of a file says of its place among the parts must be what the file says of itself.
Result<void> check_part_keys(const Part& part, const SplitName& name) {
  MESH_ASSIGN_OR_RETURN(const auto count, optional_whole(part, "split.count"));
  MESH_ASSIGN_OR_RETURN(const auto number, optional_whole(part, "split.no"));
  if (count.value_or(1) != name.count)
    return corrupt(part.file->name(), fmt::format("split.count is {}, its name says {}",
                                                  count.value_or(1), name.count));
  if (number.value_or(0) != name.part - 1)
    return corrupt(part.file->name(),
                   fmt::format("split.no is {}, counted from 0, its name says {}",
                               number.value_or(0), name.part));
  return {};
}

// All parts in order; `given` is one of them. Without split.count, or with 1, it is the whole.
Result<std::vector<Part>> open_parts(const std::string& path, Part given) {
  MESH_ASSIGN_OR_RETURN(const auto count, optional_whole(given, "split.count"));
  const std::filesystem::path file(path);
  const auto name = split_name(file.filename().string());
  std::vector<Part> parts;
  if (count.value_or(1) <= 1 && (!name || name->count == 1)) {
    parts.push_back(std::move(given));
    return parts;
  }
  if (!name)
    return corrupt(path, fmt::format("a part of {} files, its name does not end in {}", *count,
                                     split_suffix(1, *count)));
  MESH_RETURN_IF_ERROR(check_part_keys(given, *name));
  if (name->count > limits::kShardsPerModel)
    return corrupt(
        path, fmt::format("{} parts, at most {} are read", name->count, limits::kShardsPerModel));
  for (std::uint64_t i = 1; i <= name->count; ++i) {
    if (i == name->part) {
      parts.push_back(std::move(given));
      continue;
    }
    const std::string part_path =
        (file.parent_path() / (name->stem + split_suffix(i, name->count))).string();
    auto part = open_part(part_path);
    if (!part.ok() && part.error().code == Code::kNotFound)
      return part.error().with_context(fmt::format("part {} of {} is missing", i, name->count));
    if (!part.ok()) return part.error();
    MESH_RETURN_IF_ERROR(check_part_keys(part.value(), SplitName{name->stem, i, name->count}));
    parts.push_back(std::move(part).value());
  }
  return parts;
}

Result<void> check_tensor_count(const std::vector<Part>& parts) {
  std::uint64_t total = 0;
  for (const Part& part : parts) total += part.header.tensors.size();
  const std::string& first = parts.front().file->name();
  if (total > limits::kTensorsPerModel)
    return corrupt(first, fmt::format("{} tensors in {} parts, at most {} are read", total,
                                      parts.size(), limits::kTensorsPerModel));
  for (const Part& part : parts) {
    MESH_ASSIGN_OR_RETURN(const auto said, optional_whole(part, "split.tensors.count"));
    if (said && *said != total)
      return corrupt(part.file->name(),
                     fmt::format("split.tensors.count is {}, the parts have {}", *said, total));
  }
  return {};
}

// Moves the tables out of the parts.
Result<std::shared_ptr<TensorSource>> join(std::vector<Part>& parts) {
  struct Row {
    tensor::TensorInfo info;
    Place place;
  };
  std::vector<Row> rows;
  std::vector<std::unique_ptr<ByteSource>> files;
  for (Part& part : parts) {
    for (GgufTensor& tensor : part.header.tensors)
      rows.push_back({std::move(tensor.info), {files.size(), tensor.file_offset}});
    files.push_back(std::move(part.file));
  }
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return a.info.name < b.info.name; });
  std::vector<tensor::TensorInfo> tensors;
  std::vector<Place> places;
  for (Row& row : rows) {
    if (!tensors.empty() && tensors.back().name == row.info.name)
      return corrupt(files[row.place.file]->name(),
                     fmt::format("tensor {} is also in {}", gguf::printable(row.info.name),
                                 files[places.back().file]->name()));
    tensors.push_back(std::move(row.info));
    places.push_back(row.place);
  }
  return std::shared_ptr<TensorSource>(
      std::make_shared<PlacedSource>(std::move(files), std::move(tensors), std::move(places)));
}

std::string name_of_file(const std::string& path) {
  std::string name = std::filesystem::path(path).filename().string();
  if (const auto split = split_name(name); split && !split->stem.empty()) return split->stem;
  if (name.size() > kSuffix.size() && name.ends_with(kSuffix))
    name.resize(name.size() - kSuffix.size());
  return name;
}

// general.name where it can serve as a name.
std::string model_name(const GgufMetadata& metadata, const std::string& path) {
  const auto name = metadata.text("general.name");
  if (name.ok() && gguf::name_fault(*name).empty() && name->size() <= limits::kNameBytes)
    return *name;
  return name_of_file(path);
}

}  // namespace

Result<GgufModel> open_gguf(const std::string& path) {
  MESH_ASSIGN_OR_RETURN(Part given, open_part(path));
  MESH_ASSIGN_OR_RETURN(std::vector<Part> parts, open_parts(path, std::move(given)));
  MESH_RETURN_IF_ERROR(check_tensor_count(parts));
  GgufModel model;
  model.origin = parts.front().file->name();
  model.metadata = std::move(parts.front().header.metadata);
  model.name = model_name(model.metadata, model.origin);
  MESH_ASSIGN_OR_RETURN(model.tensors, join(parts));
  return model;
}

}  // namespace mesh::formats
