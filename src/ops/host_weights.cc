#include "ops/host_weights.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "tensor/quantized.h"

namespace mesh::ops {
namespace {

constexpr std::int64_t kExtentMax = std::int64_t{1} << 31;

Error wrong_type(const HostTensor& source, std::string_view wanted) {
  return Error(Code::kUnsupported,
               fmt::format("tensor '{}' has type {}; {} are supported", source.info.name,
                           tensor::dtype_name(source.info.dtype), wanted));
}

Result<void> check_tensor(const HostTensor& source, std::size_t rank) {
  const auto& info = source.info;
  bool fits = info.shape.size() == rank;
  for (std::int64_t extent : info.shape) fits = fits && extent > 0 && extent < kExtentMax;
  if (!fits || info.bytes() != source.bytes.size())
    return Error(Code::kInvalidArgument,
                 fmt::format("tensor '{}' of shape {} has {} bytes; rank {} is wanted", info.name,
                             tensor::shape_text(info.shape), source.bytes.size(), rank));
  const auto block = static_cast<std::int64_t>(tensor::block_elements(info.dtype));
  if (info.shape.back() % block != 0)
    return Error(
        Code::kInvalidArgument,
        fmt::format("tensor '{}' of shape {}: rows of {} are multiples of {}", info.name,
                    tensor::shape_text(info.shape), tensor::dtype_name(info.dtype), block));
  return {};
}

}  // namespace

Result<StackedShape> check_sources(std::span<const LinearSource> sources) {
  if (sources.empty()) return Error(Code::kInvalidArgument, "a matrix without sources");
  StackedShape shape;
  for (const LinearSource& source : sources) {
    const auto& info = source.weight.info;
    if (!tensor::is_float_weight(info.dtype) && !tensor::is_quantized(info.dtype))
      return wrong_type(source.weight, "f32, bf16, f16 and the quantised types of GGUF");
    MESH_RETURN_IF_ERROR(check_tensor(source.weight, 2));
    if (shape.out == 0) shape.in = info.shape[1];
    if (info.shape[1] != shape.in)
      return Error(Code::kInvalidArgument,
                   fmt::format("tensor '{}' of shape {} is stacked on rows of {}", info.name,
                               tensor::shape_text(info.shape), shape.in));
    if (source.bias.has_value()) MESH_RETURN_IF_ERROR(check_vector(*source.bias, info.shape[0]));
    shape.out += info.shape[0];
    if (shape.out >= kExtentMax)
      return Error(Code::kInvalidArgument, fmt::format("{} stacked rows", shape.out));
  }
  return shape;
}

Result<void> check_vector(const HostTensor& source, std::int64_t size) {
  if (!tensor::is_float_weight(source.info.dtype)) return wrong_type(source, "f32, bf16 and f16");
  MESH_RETURN_IF_ERROR(check_tensor(source, 1));
  if (size >= 0 && source.info.shape[0] != size)
    return Error(Code::kInvalidArgument, fmt::format("tensor '{}' has {} elements; {} are wanted",
                                                     source.info.name, source.info.shape[0], size));
  return {};
}

Result<void> check_experts(const ExpertsShape& shape) {
  for (const std::int64_t extent : {shape.experts, shape.hidden, shape.intermediate})
    if (extent <= 0 || extent >= kExtentMax)
      return Error(Code::kInvalidArgument, fmt::format("{} experts of [{}, {}]", shape.experts,
                                                       shape.intermediate, shape.hidden));
  return {};
}

Result<void> check_expert(const ExpertSource& source, const ExpertsShape& shape) {
  const tensor::Shape in = {shape.intermediate, shape.hidden};
  const tensor::Shape out = {shape.hidden, shape.intermediate};
  for (const auto& [matrix, wanted] :
       {std::pair{&source.gate, &in}, {&source.up, &in}, {&source.down, &out}}) {
    const LinearSource linear{*matrix, std::nullopt};
    MESH_ASSIGN_OR_RETURN([[maybe_unused]] const StackedShape found, check_sources({&linear, 1}));
    if (matrix->info.shape != *wanted)
      return Error(
          Code::kInvalidArgument,
          fmt::format("tensor '{}' of shape {} is wanted as {}", matrix->info.name,
                      tensor::shape_text(matrix->info.shape), tensor::shape_text(*wanted)));
  }
  return {};
}

void widen(const HostTensor& source, std::int64_t first, std::int64_t count, float* out) {
  const DType type = source.info.dtype;
  const auto blocks = static_cast<std::size_t>(first) / tensor::block_elements(type);
  tensor::dequantize(type, source.bytes.data() + blocks * tensor::block_bytes(type), count, out);
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
