#include "ops/host_weights.h"

#include <fmt/format.h>

#include <cstring>

namespace mesh::ops {
namespace {

constexpr std::int64_t kExtentMax = std::int64_t{1} << 31;

bool is_float(DType type) {
  return type == DType::kF32 || type == DType::kBF16 || type == DType::kF16;
}

Result<void> check_tensor(const HostTensor& source, std::size_t rank) {
  const auto& info = source.info;
  if (!is_float(info.dtype))
    return Error(Code::kUnsupported,
                 fmt::format("tensor '{}' has type {}; f32, bf16 and f16 are supported", info.name,
                             tensor::dtype_name(info.dtype)));
  bool fits = info.shape.size() == rank;
  for (std::int64_t extent : info.shape) fits = fits && extent > 0 && extent < kExtentMax;
  if (!fits || info.bytes() != source.bytes.size())
    return Error(Code::kInvalidArgument,
                 fmt::format("tensor '{}' of shape {} has {} bytes; rank {} is wanted", info.name,
                             tensor::shape_text(info.shape), source.bytes.size(), rank));
  return {};
}

}  // namespace

Result<StackedShape> check_sources(std::span<const LinearSource> sources) {
  if (sources.empty()) return Error(Code::kInvalidArgument, "a matrix without sources");
  StackedShape shape;
  for (const LinearSource& source : sources) {
    MESH_RETURN_IF_ERROR(check_tensor(source.weight, 2));
    const auto& info = source.weight.info;
    if (shape.out == 0) {
      shape.in = info.shape[1];
      shape.type = info.dtype;
    }
    if (info.shape[1] != shape.in)
      return Error(Code::kInvalidArgument,
                   fmt::format("tensor '{}' of shape {} is stacked on rows of {}", info.name,
                               tensor::shape_text(info.shape), shape.in));
    if (source.bias.has_value()) MESH_RETURN_IF_ERROR(check_vector(*source.bias, info.shape[0]));
    if (info.dtype != shape.type) shape.type = DType::kF32;
    shape.out += info.shape[0];
    if (shape.out >= kExtentMax)
      return Error(Code::kInvalidArgument, fmt::format("{} stacked rows", shape.out));
  }
  return shape;
}

Result<void> check_vector(const HostTensor& source, std::int64_t size) {
  MESH_RETURN_IF_ERROR(check_tensor(source, 1));
  if (size >= 0 && source.info.shape[0] != size)
    return Error(Code::kInvalidArgument, fmt::format("tensor '{}' has {} elements; {} are wanted",
                                                     source.info.name, source.info.shape[0], size));
  return {};
}

void widen(const HostTensor& source, std::int64_t first, std::int64_t count, float* out) {
  const DType type = source.info.dtype;
  const std::byte* bytes =
      source.bytes.data() + static_cast<std::size_t>(first) * tensor::dtype_bytes(type);
  if (type == DType::kF32) {
    std::memcpy(out, bytes, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, bytes + 2 * i, sizeof(half));
    out[i] = type == DType::kBF16 ? tensor::bf16_to_f32(half) : tensor::f16_to_f32(half);
  }
}

std::vector<float> stacked_bias(std::span<const LinearSource> sources, std::int64_t out) {
  bool any = false;
  for (const LinearSource& source : sources) any = any || source.bias.has_value();
  if (!any) return {};
  std::vector<float> bias(static_cast<std::size_t>(out), -0.0f);
  std::int64_t row = 0;
  for (const LinearSource& source : sources) {
    const std::int64_t rows = source.weight.info.shape[0];
    if (source.bias.has_value()) widen(*source.bias, 0, rows, bias.data() + row);
    row += rows;
  }
  return bias;
}

}  // namespace mesh::ops
