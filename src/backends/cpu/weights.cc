#include "backends/cpu/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backends/cpu/float_mode.h"
#include "ops/host_weights.h"
#include "tensor/quantized.h"

namespace mesh::backends::cpu {
namespace {

constexpr std::int64_t kPackTile =
    32;  // k at a time: the strided writes of a tile stay in the first cache

int quant_type(ops::DType dtype) {
  switch (dtype) {
    case ops::DType::kQ4_0:
      return kQuantQ4_0;
    case ops::DType::kQ4_1:
      return kQuantQ4_1;
    case ops::DType::kQ5_0:
      return kQuantQ5_0;
    case ops::DType::kQ5_1:
      return kQuantQ5_1;
    case ops::DType::kQ8_0:
      return kQuantQ8_0;
    case ops::DType::kIQ4_NL:
      return kQuantIQ4_NL;
    case ops::DType::kMXFP4:
      return kQuantMXFP4;
    case ops::DType::kQ2_K:
      return kQuantQ2_K;
    case ops::DType::kQ3_K:
      return kQuantQ3_K;
    case ops::DType::kQ4_K:
      return kQuantQ4_K;
    case ops::DType::kQ5_K:
      return kQuantQ5_K;
    case ops::DType::kQ6_K:
      return kQuantQ6_K;
    case ops::DType::kIQ4_XS:
      return kQuantIQ4_XS;
    default:
      return -1;
  }
}

std::size_t row_bytes_of(ops::DType dtype, std::int64_t in) {
  return static_cast<std::size_t>(in) / tensor::block_elements(dtype) * tensor::block_bytes(dtype);
}

struct SourceRow {
  const ops::HostTensor* weight = nullptr;
  std::int64_t row = 0;
};

SourceRow locate(std::span<const ops::LinearSource> sources, std::int64_t row) {
  for (const ops::LinearSource& source : sources) {
    const std::int64_t rows = source.weight.info.shape[0];
    if (row < rows) return {&source.weight, row};
    row -= rows;
  }
  return {};
}

// The part that one source alone would be.
LinearPart part_of(const ops::HostTensor& weight) {
  LinearPart part;
  part.dtype = weight.info.dtype;
  part.quant = quant_type(part.dtype);
  part.type = part.dtype == ops::DType::kBF16  ? kWeightBF16
              : part.dtype == ops::DType::kF16 ? kWeightF16
                                               : kWeightF32;
  part.outs = weight.info.shape[0];
  return part;
}

std::uint64_t part_bytes(const LinearPart& part, std::int64_t in) {
  const auto groups = static_cast<std::uint64_t>(part.groups());
  const std::uint64_t group =
      part.quant >= 0 ? part.group_bytes
                      : static_cast<std::uint64_t>(in) * kLanes * tensor::dtype_bytes(part.dtype);
  return (groups * group + 63) / 64 * 64;
}

// Element T of one source row into its lane of the panel.
template <typename T>
void pack_row(const T* from, std::int64_t first, std::int64_t count, std::int64_t stride, T* lane) {
  for (std::int64_t k = 0; k < count; ++k) lane[(first + k) * stride] = from[k];
}

void pack_panel(std::span<const ops::LinearSource> sources, const LinearPart& part,
                std::int64_t index, std::int64_t in, std::byte* data) {
  const std::int64_t stride = part.panel_groups(index) * kLanes;
  const auto element = static_cast<std::int64_t>(tensor::dtype_bytes(part.dtype));
  std::byte* panel = data + index * kPanel * in * element;
  const std::int64_t rows = std::min<std::int64_t>(part.outs - index * kPanel, kPanel);
  for (std::int64_t k = 0; k < in; k += kPackTile) {
    const std::int64_t count = std::min(kPackTile, in - k);
    for (std::int64_t o = 0; o < rows; ++o) {
      const SourceRow from = locate(sources, part.begin + index * kPanel + o);
      const std::int64_t first = from.row * in + k;
      if (element == 4) {
        float values[kPackTile];
        ops::widen(*from.weight, first, count, values);
        pack_row(values, k, count, stride, reinterpret_cast<float*>(panel) + o);
      } else {
        std::uint16_t values[kPackTile];
        std::memcpy(values, from.weight->bytes.data() + first * 2,
                    static_cast<std::size_t>(count) * 2);
        pack_row(values, k, count, stride, reinterpret_cast<std::uint16_t*>(panel) + o);
      }
    }
  }
}

void pack_group(std::span<const ops::LinearSource> sources, const LinearPart& part,
                std::int64_t index, std::int64_t in, bool isa_signed, std::byte* data) {
  const std::byte* rows[kLanes] = {};
  const std::size_t bytes = row_bytes_of(part.dtype, in);
  for (std::int64_t o = 0; o < std::min<std::int64_t>(kLanes, part.outs - index * kLanes); ++o) {
    const SourceRow from = locate(sources, part.begin + index * kLanes + o);
    rows[o] = from.weight->bytes.data() + static_cast<std::size_t>(from.row) * bytes;
  }
  quant_pack_group(part.quant, rows, in, isa_signed,
                   data + static_cast<std::size_t>(index) * part.group_bytes);
}

void pack_part(std::span<const ops::LinearSource> sources, const LinearPart& part, std::int64_t in,
               bool isa_signed, std::byte* data, ThreadPool& pool) {
  if (part.quant >= 0) {
    pool.run(static_cast<int>(part.groups()),
             [&](int index, int) { pack_group(sources, part, index, in, isa_signed, data); });
    return;
  }
  pool.run(static_cast<int>(part.panels()), [&](int index, int) {
    set_float_mode();
    pack_panel(sources, part, index, in, data);
  });
}

}  // namespace

int LinearPart::panel_groups(std::int64_t panel) const {
  const std::int64_t rest = outs - panel * kPanel;
  return static_cast<int>((std::min<std::int64_t>(rest, kPanel) + kLanes - 1) / kLanes);
}

Result<std::unique_ptr<CpuLinear>> CpuLinear::make(std::span<const ops::LinearSource> sources,
                                                   const QuantKernels& quant, ThreadPool& pool) {
  MESH_ASSIGN_OR_RETURN(const ops::StackedShape shape, ops::check_sources(sources));
  std::unique_ptr<CpuLinear> linear(new CpuLinear);
  linear->in_ = shape.in;
  linear->out_ = shape.out;
  linear->isa_signed_ = quant.isa_signed;
  for (const ops::LinearSource& source : sources) {
    LinearPart part = part_of(source.weight);
    if (!linear->parts_.empty() && linear->parts_.back().dtype == part.dtype) {
      linear->parts_.back().outs += part.outs;
      continue;
    }
    if (!linear->parts_.empty())
      part.begin = linear->parts_.back().begin + linear->parts_.back().outs;
    if (part.quant >= 0) {
      part.group_bytes = quant_group_bytes(part.quant, shape.in);
      linear->row_bytes_ = std::max(linear->row_bytes_, row_bytes_of(part.dtype, shape.in));
    }
    linear->parts_.push_back(part);
  }
  std::uint64_t bytes = 0;
  for (const LinearPart& part : linear->parts_) bytes += part_bytes(part, shape.in);
  linear->memory_ = Block::allocate(bytes, true);
  if (!linear->memory_)
    return Error(Code::kResourceExhausted, fmt::format("no memory for the {} bytes of matrix '{}'",
                                                       bytes, sources[0].weight.info.name));
  linear->bias_ = ops::stacked_bias(sources, shape.out);
  std::byte* at = linear->memory_.data();
  for (LinearPart& part : linear->parts_) {
    part.data = at;
    pack_part(sources, part, shape.in, quant.isa_signed, at, pool);
    at += part_bytes(part, shape.in);
  }
  return linear;
}

void CpuLinear::row(std::int64_t index, std::byte* blocks, float* out) const {
  const LinearPart* part = parts_.data();
  while (index >= part->begin + part->outs) ++part;
  index -= part->begin;
  if (part->quant >= 0) {
    const auto group = static_cast<std::size_t>(index / kLanes);
    quant_unpack_row(part->quant, part->data + group * part->group_bytes,
                     static_cast<int>(index % kLanes), in_, isa_signed_, blocks);
    return tensor::dequantize(part->dtype, blocks, in_, out);
  }
  const std::int64_t at = index / kPanel, stride = part->panel_groups(at) * kLanes;
  const auto element = static_cast<std::int64_t>(tensor::dtype_bytes(part->dtype));
  const std::byte* lane = part->data + (at * kPanel * in_ + index % kPanel) * element;
  for (std::int64_t k = 0; k < in_; ++k, lane += stride * element) {
    if (part->type == kWeightF32) {
      std::memcpy(out + k, lane, sizeof(float));
      continue;
    }
    std::uint16_t half = 0;
    std::memcpy(&half, lane, sizeof(half));
    out[k] = part->type == kWeightBF16 ? tensor::bf16_to_f32(half) : tensor::f16_to_f32(half);
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
