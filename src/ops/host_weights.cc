#include "ops/host_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "tensor/quantized.h"

namespace mesh::ops {
namespace {

constexpr std::int64_t kExtentMax = std::int64_t{1} << 31;

Error wrong_type(const tensor::TensorInfo& info, std::string_view wanted) {
  return Error(Code::kUnsupported, fmt::format("tensor '{}' has type {}; {} are supported",
                                               info.name, tensor::dtype_name(info.dtype), wanted));
}

// `bytes` are there for it.
Result<void> check_tensor(const tensor::TensorInfo& info, std::uint64_t bytes, std::size_t rank) {
  bool fits = info.shape.size() == rank;
  for (std::int64_t extent : info.shape) fits = fits && extent > 0 && extent < kExtentMax;
  if (!fits || info.bytes() != bytes)
    return Error(Code::kInvalidArgument,
                 fmt::format("tensor '{}' of shape {} has {} bytes; rank {} is wanted", info.name,
                             tensor::shape_text(info.shape), bytes, rank));
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
      return wrong_type(info, "f32, bf16, f16 and the quantised types of GGUF");
    MESH_RETURN_IF_ERROR(
        check_tensor(info, source.weight.read ? info.bytes() : source.weight.bytes.size(), 2));
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
  if (!tensor::is_float_weight(source.info.dtype))
    return wrong_type(source.info, "f32, bf16 and f16");
  MESH_RETURN_IF_ERROR(check_tensor(source.info, source.bytes.size(), 1));
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

std::int64_t window_rows(std::size_t row_bytes, std::int64_t unit, std::int64_t rows) {
  const auto fit =
      static_cast<std::int64_t>(kReadWindowBytes / std::max<std::size_t>(row_bytes, 1));
  return std::min(std::max(fit / unit, std::int64_t{1}), (rows + unit - 1) / unit) * unit;
}

Result<void> read_rows(const MatrixSource& source, std::int64_t first, std::span<std::byte> out) {
  if (source.read) return source.read(first, out);
  std::memcpy(out.data(),
              source.bytes.data() + static_cast<std::size_t>(first) * source.info.row_bytes(),
              out.size());
  return {};
}

Result<void> for_windows(const MatrixSource& source, const UseRows& use) {
  const std::int64_t rows = source.info.shape[0];
  const std::size_t row = source.info.row_bytes();
  const std::int64_t step = window_rows(row, 1, rows);
  std::vector<std::byte> window(static_cast<std::size_t>(step) * row);
  HostTensor part{source.info, {}, nullptr};
  for (std::int64_t first = 0; first < rows; first += step) {
    part.info.shape[0] = std::min(step, rows - first);
    const std::span<std::byte> bytes =
        std::span(window).first(static_cast<std::size_t>(part.info.shape[0]) * row);
    MESH_RETURN_IF_ERROR(read_rows(source, first, bytes));
    if (source.show) source.show(bytes);
    part.bytes = bytes;
    use(first, part);
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
