#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <limits>
#include <set>
#include <system_error>
#include <type_traits>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"
#include "formats/gguf.h"
#include "formats/gguf_types.h"

namespace mesh::formats {
namespace {

using gguf::ValueType;

Error disk_error(const std::string& path, int number) {
  return Error(Code::kUnavailable,
               fmt::format("{}: {}", path, std::generic_category().message(number)));
}

// A file that appears under its name at finish(), and not at all without it.
class ScratchFile {
 public:
  explicit ScratchFile(std::string path)
      : path_(std::move(path)), scratch_(fmt::format("{}.incomplete-{}", path_, ::getpid())) {}
  ~ScratchFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    if (!finished_) ::unlink(scratch_.c_str());
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  Result<void> open() {
    descriptor_ = ::open(scratch_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ < 0) return disk_error(scratch_, errno);
    return {};
  }
  Result<void> write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t put =
          ::write(descriptor_, bytes.data(), std::min<std::size_t>(bytes.size(), 1u << 30));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return disk_error(scratch_, errno);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
  }
  Result<void> finish() {
    if (::fsync(descriptor_) != 0 || ::rename(scratch_.c_str(), path_.c_str()) != 0)
      return disk_error(path_, errno);
    finished_ = true;
    return {};
  }

 private:
  const std::string path_;
  const std::string scratch_;
  int descriptor_ = -1;
  bool finished_ = false;
};

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void append_string(std::string& out, std::string_view text) {
  append<std::uint64_t>(out, text.size());
  out.append(text);
}

bool fits(std::uint64_t value, std::uint32_t) {
  return value <= std::numeric_limits<std::uint32_t>::max();
}
bool fits(std::int64_t value, std::int32_t) {
  return value == static_cast<std::int32_t>(value);
}
bool fits(double value, float) {
  if (std::isinf(value)) return true;
  return std::fabs(value) <= double{std::numeric_limits<float>::max()} &&
         static_cast<double>(static_cast<float>(value)) == value;
}

// The 32-bit kinds where every value fits, as other programs expect of most keys.
template <typename Narrow, typename Wide>
void append_numbers(std::string& out, std::span<const Wide> values, ValueType narrow,
                    ValueType wide, bool is_array) {
  const bool all_fit =
      std::all_of(values.begin(), values.end(), [](Wide v) { return fits(v, Narrow{}); });
  append(out, all_fit ? narrow : wide);
  if (is_array) append<std::uint64_t>(out, values.size());
  for (const Wide value : values) {
    if (all_fit)
      append(out, static_cast<Narrow>(value));
    else
      append(out, value);
  }
}

struct ValueWriter {
  std::string& out;

  void numbers(std::span<const std::uint64_t> v, bool array) const {
    append_numbers<std::uint32_t>(out, v, ValueType::kU32, ValueType::kU64, array);
  }
  void numbers(std::span<const std::int64_t> v, bool array) const {
    append_numbers<std::int32_t>(out, v, ValueType::kI32, ValueType::kI64, array);
  }
  void numbers(std::span<const double> v, bool array) const {
    append_numbers<float>(out, v, ValueType::kF32, ValueType::kF64, array);
  }

  template <typename T>
  void operator()(const T& value) const {
    numbers(std::span<const T>(&value, 1), false);
  }
  template <typename T>
  void operator()(const std::vector<T>& values) const {
    append(out, ValueType::kArray);
    numbers(std::span<const T>(values), true);
  }
  void operator()(bool value) const {
    append(out, ValueType::kBool);
    append<std::uint8_t>(out, value ? 1 : 0);
  }
  void operator()(const std::string& value) const {
    append(out, ValueType::kString);
    append_string(out, value);
  }
  void operator()(const std::vector<bool>& values) const {
    append(out, ValueType::kArray);
    append(out, ValueType::kBool);
    append<std::uint64_t>(out, values.size());
    for (const bool value : values) append<std::uint8_t>(out, value ? 1 : 0);
  }
  void operator()(const std::vector<std::string>& values) const {
    append(out, ValueType::kArray);
    append(out, ValueType::kString);
    append<std::uint64_t>(out, values.size());
    for (const std::string& value : values) append_string(out, value);
  }
};

void append_value(std::string& out, std::string_view key, const GgufValue& value) {
  append_string(out, key);
  // The two keys that are 16 bits wide by the specification, and are read as such.
  const auto* number = std::get_if<std::uint64_t>(&value);
  if ((key == "split.no" || key == "split.count") && number != nullptr && *number <= 0xFFFFu) {
    append(out, ValueType::kU16);
    append(out, static_cast<std::uint16_t>(*number));
    return;
  }
  std::visit(ValueWriter{out}, value);
}

Result<void> check_tensor(const tensor::HostTensor& tensor) {
  const tensor::TensorInfo& info = tensor.info;
  const auto invalid = [&](const std::string& reason) {
    return Error(Code::kInvalidArgument,
                 fmt::format("tensor {}: {}", gguf::printable(info.name), reason));
  };
  if (const auto fault = gguf::name_fault(info.name); !fault.empty())
    return invalid(fmt::format("its name {}", fault));
  if (info.shape.size() > limits::kGgufTensorRank)
    return invalid(fmt::format("{} dimensions, GGUF has at most {}", info.shape.size(),
                               limits::kGgufTensorRank));
  if (!gguf::element_number(info.dtype))
    return invalid(fmt::format("GGUF has no element type {}", tensor::dtype_name(info.dtype)));
  const auto bytes = checked_bytes(info.shape, info.dtype);
  if (!bytes || *bytes != tensor.bytes.size())
    return invalid(fmt::format("{} of {} needs {} bytes, {} are given",
                               tensor::dtype_name(info.dtype), tensor::shape_text(info.shape),
                               bytes ? std::to_string(*bytes) : "whole blocks and below 2^63",
                               tensor.bytes.size()));
  return {};
}

Result<void> check_metadata(const GgufMetadata& metadata, std::uint64_t alignment) {
  const auto invalid = [](const std::string& reason) {
    return Error(Code::kInvalidArgument, reason);
  };
  if (!std::has_single_bit(alignment) || alignment > limits::kGgufAlignment)
    return invalid(
        fmt::format("alignment {} is no power of two up to {}", alignment, limits::kGgufAlignment));
  for (const auto& [key, value] : metadata.values)
    if (const auto fault = gguf::name_fault(key); !fault.empty())
      return invalid(fmt::format("metadata key {}: its name {}", gguf::printable(key), fault));
  if (!metadata.has(gguf::kAlignmentKey)) return {};
  const auto said = metadata.whole(gguf::kAlignmentKey);
  if (!said.ok() || *said != alignment)
    return invalid(
        fmt::format("metadata key {} is not the alignment {}", gguf::kAlignmentKey, alignment));
  return {};
}

// Header and table, padded up to the data.
std::string header_bytes(const GgufMetadata& metadata,
                         const std::vector<tensor::HostTensor>& tensors, std::uint64_t alignment) {
  const bool say_alignment = alignment != gguf::kAlignment && !metadata.has(gguf::kAlignmentKey);
  std::string out;
  append(out, gguf::kMagic);
  append(out, gguf::kVersion);
  append<std::uint64_t>(out, tensors.size());
  append<std::uint64_t>(out, metadata.values.size() + (say_alignment ? 1 : 0));
  if (say_alignment) append_value(out, gguf::kAlignmentKey, GgufValue(alignment));
  for (const auto& [key, value] : metadata.values) append_value(out, key, value);
  std::uint64_t offset = 0;
  for (const tensor::HostTensor& tensor : tensors) {
    append_string(out, tensor.info.name);
    append(out, static_cast<std::uint32_t>(tensor.info.shape.size()));
    for (std::size_t i = tensor.info.shape.size(); i > 0; --i)
      append(out, static_cast<std::uint64_t>(tensor.info.shape[i - 1]));
    append(out, *gguf::element_number(tensor.info.dtype));
    append(out, offset);
    offset = gguf::aligned(offset + tensor.bytes.size(), alignment);
  }
  out.resize(static_cast<std::size_t>(gguf::aligned(out.size(), alignment)), '\0');
  return out;
}

}  // namespace

Result<void> write_gguf(const std::string& path, const GgufMetadata& metadata,
                        std::vector<tensor::HostTensor> tensors, std::uint64_t alignment) {
  if (auto status = check_metadata(metadata, alignment); !status.ok())
    return status.error().with_context(path);
  std::set<std::string_view> names;
  for (const tensor::HostTensor& tensor : tensors) {
    if (auto status = check_tensor(tensor); !status.ok()) return status.error().with_context(path);
    if (!names.insert(tensor.info.name).second)
      return Error(Code::kInvalidArgument, fmt::format("{}: tensor {} appears twice", path,
                                                       gguf::printable(tensor.info.name)));
  }
  ScratchFile file(path);
  MESH_RETURN_IF_ERROR(file.open());
  MESH_RETURN_IF_ERROR(file.write(as_bytes(header_bytes(metadata, tensors, alignment))));
  for (const tensor::HostTensor& tensor : tensors) {
    MESH_RETURN_IF_ERROR(file.write(tensor.bytes));
    const std::uint64_t bytes = tensor.bytes.size();
    const std::string padding(static_cast<std::size_t>(gguf::aligned(bytes, alignment) - bytes),
                              '\0');
    MESH_RETURN_IF_ERROR(file.write(as_bytes(padding)));
  }
  return file.finish();
}

}  // namespace mesh::formats
