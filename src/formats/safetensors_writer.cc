#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "base/bytes.h"
#include "formats/safetensors.h"

namespace mesh::formats {
namespace {

constexpr std::size_t kHeaderAlignment = 8;

Error disk_error(const std::string& path, int number) {
  return Error(Code::kUnavailable,
               fmt::format("{}: {}", path, std::generic_category().message(number)));
}

// Wide types first, as the reference implementation orders them: every tensor is then aligned to
// its type.
bool lies_before(const tensor::TensorInfo& a, const tensor::TensorInfo& b) {
  return std::pair(-static_cast<int>(tensor::dtype_bytes(a.dtype)), a.name) <
         std::pair(-static_cast<int>(tensor::dtype_bytes(b.dtype)), b.name);
}

Result<std::string> header_text(const std::vector<tensor::TensorInfo>& tensors,
                                const SafetensorsMetadata& metadata) {
  try {
    std::string text = "{";
    if (!metadata.empty())
      text += fmt::format("\"__metadata__\":{},", nlohmann::json(metadata).dump());
    std::uint64_t at = 0;
    for (const tensor::TensorInfo& info : tensors) {
      text += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}},",
                          nlohmann::json(info.name).dump(), tensor::dtype_name(info.dtype),
                          nlohmann::json(info.shape).dump(), at, at + info.bytes());
      at += info.bytes();
    }
    if (text.back() == ',') text.pop_back();
    return text + "}";
  } catch (const nlohmann::json::exception&) {  // a name that is no UTF-8
    return Error(Code::kInvalidArgument, "a tensor name or metadata entry is not UTF-8");
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string path, std::string scratch, int descriptor)
    : path_(std::move(path)), scratch_(std::move(scratch)), descriptor_(descriptor) {}

SafetensorsWriter::~SafetensorsWriter() {
  ::close(descriptor_);
  if (!finished_) ::unlink(scratch_.c_str());
}

Result<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::create(
    const std::string& path, std::vector<tensor::TensorInfo> tensors,
    const SafetensorsMetadata& metadata) {
  std::uint64_t total = 0;
  for (const tensor::TensorInfo& info : tensors) {
    const auto bytes = checked_bytes(info.shape, info.dtype);
    if (!bytes || *bytes > (std::uint64_t{1} << 62) - total)
      return Error(Code::kInvalidArgument, fmt::format("{}: tensor {}: shape {}", path, info.name,
                                                       tensor::shape_text(info.shape)));
    total += *bytes;
  }
  std::sort(tensors.begin(), tensors.end(), lies_before);
  MESH_ASSIGN_OR_RETURN(std::string text, header_text(tensors, metadata));
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');

  const std::string scratch = fmt::format("{}.incomplete-{}", path, ::getpid());
  const int descriptor = ::open(scratch.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor < 0) return disk_error(scratch, errno);
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter(path, scratch, descriptor));
  const std::uint64_t length = text.size();
  std::uint64_t at = sizeof(length) + length;
  for (const tensor::TensorInfo& info : tensors) {
    if (!writer->slots_.emplace(info.name, Slot{.next = at, .end = at + info.bytes()}).second)
      return Error(Code::kInvalidArgument,
                   fmt::format("{}: tensor {} appears twice", path, info.name));
    at += info.bytes();
  }
  MESH_RETURN_IF_ERROR(
      writer->write_at(0, {reinterpret_cast<const std::byte*>(&length), sizeof(length)}));
  MESH_RETURN_IF_ERROR(writer->write_at(sizeof(length), as_bytes(text)));
  return writer;
}

Result<void> SafetensorsWriter::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put =
        ::pwrite(descriptor_, bytes.data(), std::min<std::size_t>(bytes.size(), 1u << 30),
                 static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return disk_error(scratch_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += static_cast<std::uint64_t>(put);
  }
  return {};
}

Result<void> SafetensorsWriter::append(const std::string& tensor,
                                       std::span<const std::byte> bytes) {
  const auto at = slots_.find(tensor);
  if (at == slots_.end())
    return Error(Code::kNotFound, fmt::format("{}: no tensor {}", path_, tensor));
  Slot& slot = at->second;
  if (bytes.size() > slot.end - slot.next)
    return Error(Code::kInvalidArgument, fmt::format("{}: tensor {}: {} bytes, {} are left", path_,
                                                     tensor, bytes.size(), slot.end - slot.next));
  MESH_RETURN_IF_ERROR(write_at(slot.next, bytes));
  slot.next += bytes.size();
  return {};
}

Result<void> SafetensorsWriter::finish() {
  for (const auto& [name, slot] : slots_)
    if (slot.next != slot.end)
      return Error(Code::kInvalidArgument,
                   fmt::format("{}: tensor {} lacks {} bytes", path_, name, slot.end - slot.next));
  if (::fsync(descriptor_) != 0 || ::rename(scratch_.c_str(), path_.c_str()) != 0)
    return disk_error(path_, errno);
  finished_ = true;
  return {};
}

Result<void> write_safetensors(const std::string& path, std::span<const tensor::HostTensor> tensors,
                               const SafetensorsMetadata& metadata) {
  std::vector<tensor::TensorInfo> table;
  for (const tensor::HostTensor& tensor : tensors) table.push_back(tensor.info);
  MESH_ASSIGN_OR_RETURN(const std::unique_ptr<SafetensorsWriter> writer,
                        SafetensorsWriter::create(path, std::move(table), metadata));
  for (const tensor::HostTensor& tensor : tensors)
    MESH_RETURN_IF_ERROR(writer->append(tensor.info.name, tensor.bytes));
  return writer->finish();
}

}  // namespace mesh::formats
