#include "backends/cpu/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backends/cpu/float_mode.h"
#include "ops/host_weights.h"

namespace mesh::backends::cpu {
namespace {

constexpr std::int64_t kPackTile =
    32;  // k at a time: the strided writes of a tile stay in the first cache

struct SourceRow {
  const ops::LinearSource* source = nullptr;
  std::int64_t row = 0;
};

SourceRow locate(std::span<const ops::LinearSource> sources, std::int64_t row) {
  for (const ops::LinearSource& source : sources) {
    const std::int64_t rows = source.weight.info.shape[0];
    if (row < rows) return {&source, row};
    row -= rows;
  }
  return {};
}

// Element T of one source row into its lane of the panel.
template <typename T>
void pack_row(const T* from, std::int64_t first, std::int64_t count, std::int64_t stride, T* lane) {
  for (std::int64_t k = 0; k < count; ++k) lane[(first + k) * stride] = from[k];
}

}  // namespace

int CpuLinear::groups(std::int64_t panel) const {
  const std::int64_t rest = out_ - panel * kPanel;
  return static_cast<int>((std::min<std::int64_t>(rest, kPanel) + kLanes - 1) / kLanes);
}

const std::byte* CpuLinear::panel(std::int64_t panel) const {
  return memory_.data() + panel * kPanel * in_ * element_;
}

Result<std::unique_ptr<CpuLinear>> CpuLinear::make(std::span<const ops::LinearSource> sources,
                                                   ThreadPool& pool) {
  MESH_ASSIGN_OR_RETURN(const ops::StackedShape shape, ops::check_sources(sources));
  std::unique_ptr<CpuLinear> linear(new CpuLinear);
  linear->in_ = shape.in;
  linear->out_ = shape.out;
  ops::DType type = sources[0].weight.info.dtype;
  for (const ops::LinearSource& source : sources)
    if (source.weight.info.dtype != type || tensor::is_quantized(type)) type = ops::DType::kF32;
  linear->type_ = type == ops::DType::kF32    ? kWeightF32
                  : type == ops::DType::kBF16 ? kWeightBF16
                                              : kWeightF16;
  linear->element_ = static_cast<int>(tensor::dtype_bytes(type));
  const std::uint64_t padded =
      static_cast<std::uint64_t>((shape.out + kLanes - 1) / kLanes * kLanes);
  const std::uint64_t bytes =
      padded * static_cast<std::uint64_t>(shape.in) * static_cast<std::uint64_t>(linear->element_);
  linear->memory_ = Block::allocate(bytes, true);
  if (!linear->memory_)
    return Error(Code::kResourceExhausted, fmt::format("no memory for the {} bytes of matrix '{}'",
                                                       bytes, sources[0].weight.info.name));
  linear->bias_ = ops::stacked_bias(sources, shape.out);
  CpuLinear& matrix = *linear;
  auto pack_panel = [&](int index, int) {
    set_float_mode();
    const std::int64_t stride = matrix.groups(index) * kLanes;
    std::byte* panel = matrix.memory_.data() +
                       static_cast<std::int64_t>(index) * kPanel * matrix.in_ * matrix.element_;
    const std::int64_t rows =
        std::min<std::int64_t>(matrix.out_ - static_cast<std::int64_t>(index) * kPanel, kPanel);
    for (std::int64_t k = 0; k < matrix.in_; k += kPackTile) {
      const std::int64_t count = std::min(kPackTile, matrix.in_ - k);
      for (std::int64_t o = 0; o < rows; ++o) {
        const SourceRow from = locate(sources, static_cast<std::int64_t>(index) * kPanel + o);
        const std::int64_t first = from.row * matrix.in_ + k;
        if (matrix.element_ == 4) {
          float values[kPackTile];
          ops::widen(from.source->weight, first, count, values);
          pack_row(values, k, count, stride, reinterpret_cast<float*>(panel) + o);
        } else {
          std::uint16_t values[kPackTile];
          std::memcpy(values, from.source->weight.bytes.data() + first * 2,
                      static_cast<std::size_t>(count) * 2);
          pack_row(values, k, count, stride, reinterpret_cast<std::uint16_t*>(panel) + o);
        }
      }
    }
  };
  pool.run(static_cast<int>(matrix.panels()),
           [&](int index, int worker) { pack_panel(index, worker); });
  return linear;
}

void CpuLinear::row(std::int64_t index, float* out) const {
  const std::int64_t at = index / kPanel;
  const std::int64_t stride = groups(at) * kLanes;
  const std::byte* lane = panel(at) + index % kPanel * element_;
  for (std::int64_t k = 0; k < in_; ++k, lane += stride * element_) {
    if (type_ == kWeightF32) {
      std::memcpy(out + k, lane, sizeof(float));
      continue;
    }
    std::uint16_t half = 0;
    std::memcpy(&half, lane, sizeof(half));
    out[k] = type_ == kWeightBF16 ? tensor::bf16_to_f32(half) : tensor::f16_to_f32(half);
  }
}

Result<std::unique_ptr<CpuVec>> CpuVec::make(const ops::HostTensor& source) {
  MESH_RETURN_IF_ERROR(ops::check_vector(source, -1));
  auto vec = std::make_unique<CpuVec>();
  vec->values_.resize(static_cast<std::size_t>(source.info.shape[0]));
  ops::widen(source, 0, source.info.shape[0], vec->values_.data());
  return vec;
}

}  // namespace mesh::backends::cpu
