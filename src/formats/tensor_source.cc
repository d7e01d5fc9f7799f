#include "formats/tensor_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "base/bytes.h"

namespace mesh::formats {

const tensor::TensorInfo* TensorSource::find(std::string_view name) const {
  const auto& table = tensors();
  const auto at = std::lower_bound(
      table.begin(), table.end(), name,
      [](const tensor::TensorInfo& info, std::string_view n) { return info.name < n; });
  return at != table.end() && at->name == name ? &*at : nullptr;
}

Result<tensor::HostTensor> TensorSource::read(const std::string& name) const {
  const tensor::TensorInfo* info = find(name);
  if (info == nullptr) return Error(Code::kNotFound, "no tensor " + name);
  auto buffer = std::make_shared<Buffer>(static_cast<std::size_t>(info->bytes()));
  MESH_RETURN_IF_ERROR(read_part(name, 0, buffer->span()));
  const std::span<const std::byte> bytes = std::as_const(*buffer).span();
  return tensor::HostTensor{.info = *info, .bytes = bytes, .owner = std::move(buffer)};
}

Result<const tensor::TensorInfo*> check_part(const TensorSource& source, const std::string& name,
                                             std::uint64_t offset, std::uint64_t count) {
  const tensor::TensorInfo* info = source.find(name);
  if (info == nullptr) return Error(Code::kNotFound, "no tensor " + name);
  const std::uint64_t size = info->bytes();
  if (offset > size || count > size - offset)
    return Error(
        Code::kInvalidArgument,
        fmt::format("tensor {}: {} bytes at {} asked for, it has {}", name, count, offset, size));
  return info;
}

std::optional<std::uint64_t> checked_bytes(const tensor::Shape& shape, tensor::DType dtype) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
  const std::size_t elements = tensor::block_elements(dtype);
  if (elements > 1 && (shape.empty() || shape.back() % static_cast<std::int64_t>(elements) != 0))
    return std::nullopt;
  std::uint64_t bytes = tensor::block_bytes(dtype);
  // A zero extent makes the product zero, but the other extents must be honest all the same.
  bool empty = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    if (extent == 0) {
      empty = true;
      continue;
    }
    if (bytes > kMax / static_cast<std::uint64_t>(extent)) return std::nullopt;
    bytes *= static_cast<std::uint64_t>(extent);
  }
  return empty ? 0 : bytes / elements;
}

}  // namespace mesh::formats
