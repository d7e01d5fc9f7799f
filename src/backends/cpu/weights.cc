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

// The part that one source alone would be.
LinearPart part_of(const ops::MatrixSource& weight) {
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

// Elements T of one source row into its lane of the panel.
template <typename T>
void pack_row(const std::byte* row, std::int64_t first, std::int64_t count, std::int64_t stride,
              T* lane) {
  T values[kPackTile];
  std::memcpy(values, row + static_cast<std::size_t>(first) * sizeof(T),
              static_cast<std::size_t>(count) * sizeof(T));
  for (std::int64_t k = 0; k < count; ++k) lane[(first + k) * stride] = values[k];
}

// One part of a matrix on its way through the windows into the layout. Rows count within the part.
class PartPacker {
 public:
  PartPacker(std::span<const ops::LinearSource> sources, const LinearPart& part, std::int64_t in,
             bool isa_signed, std::byte* data)
      : sources_(sources),
        part_(part),
        in_(in),
        isa_signed_(isa_signed),
        data_(data),
        row_bytes_(tensor::row_bytes(part.dtype, in)),
        unit_(part.quant >= 0 ? kLanes : kPanel),
        window_rows_(ops::window_rows(row_bytes_, unit_, part.outs)),
        read_rows_(ops::window_rows(row_bytes_ * kReadsPerWindow, unit_, window_rows_)) {}

  std::uint64_t window_bytes() const {
    return static_cast<std::uint64_t>(window_rows_) * row_bytes_;
  }

  // While one window is packed and shown, the next is read: a disk, the system's copy and a
  // conversion on the way all take their time.
  Result<void> run(const ReadWindows& windows, ThreadPool& pool) {
    const std::int64_t count = (part_.outs + window_rows_ - 1) / window_rows_;
    for (std::int64_t window = -1; window < count; ++window) {
      const int show = window >= 0 ? 1 : 0, reads = pieces(window + 1, read_rows_);
      std::vector<Result<void>> done(static_cast<std::size_t>(reads));
      pool.run(show + reads + pieces(window, unit_), [&](int index, int) {
        set_float_mode();  // a source may convert what it reads
        if (index < show) return this->show(window, windows.data(window));
        index -= show;
        if (index < reads)
          done[static_cast<std::size_t>(index)] = read(window + 1, index, windows.data(window + 1));
        else
          pack(window, index - reads, windows.data(window));
      });
      for (const Result<void>& piece : done) MESH_RETURN_IF_ERROR(piece);
    }
    return {};
  }

 private:
  static constexpr std::size_t kReadsPerWindow = 4;

  std::int64_t first_row(std::int64_t window) const { return window * window_rows_; }
  std::int64_t rows_of(std::int64_t window) const {
    return std::clamp<std::int64_t>(part_.outs - first_row(window), 0, window_rows_);
  }
  // Pieces of `rows` rows each that a window has; the one before the first window has none.
  int pieces(std::int64_t window, std::int64_t rows) const {
    return window < 0 ? 0 : static_cast<int>((rows_of(window) + rows - 1) / rows);
  }

  // Calls use(source, row within it, bytes) for what each source has of rows [first, first +
  // count), which lie at `bytes`; an error ends it.
  template <typename Use>
  Result<void> for_sources(std::int64_t first, std::int64_t count, std::byte* bytes,
                           const Use& use) const {
    std::int64_t begin = part_.begin + first;
    for (const ops::LinearSource& source : sources_) {
      const std::int64_t rows = source.weight.info.shape[0];
      if (begin < rows && count > 0) {
        const std::int64_t here = std::min(count, rows - begin);
        const std::size_t size = static_cast<std::size_t>(here) * row_bytes_;
        MESH_RETURN_IF_ERROR(use(source.weight, begin, std::span(bytes, size)));
        bytes += size;
        count -= here;
        begin += here;
      }
      begin -= rows;
    }
    return {};
  }

  Result<void> read(std::int64_t window, int piece, std::byte* to) const {
    const std::int64_t first = piece * read_rows_;
    return for_sources(first_row(window) + first, std::min(read_rows_, rows_of(window) - first),
                       to + static_cast<std::size_t>(first) * row_bytes_,
                       [](const ops::MatrixSource& source, std::int64_t row,
                          std::span<std::byte> out) { return ops::read_rows(source, row, out); });
  }

  void show(std::int64_t window, std::byte* from) const {
    (void)for_sources(first_row(window), rows_of(window), from,
                      [](const ops::MatrixSource& source, std::int64_t,
                         std::span<std::byte> rows) -> Result<void> {
                        if (source.show) source.show(rows);
                        return {};
                      });
  }

  void pack(std::int64_t window, std::int64_t index, const std::byte* from) const {
    from += static_cast<std::size_t>(index * unit_) * row_bytes_;
    const std::int64_t first = first_row(window) + index * unit_;
    const std::int64_t rows = std::min(unit_, part_.outs - first);
    if (part_.quant < 0) return pack_panel(first / kPanel, rows, from);
    const std::byte* at[kLanes] = {};
    for (std::int64_t o = 0; o < rows; ++o) at[o] = from + static_cast<std::size_t>(o) * row_bytes_;
    quant_pack_group(part_.quant, at, in_, isa_signed_,
                     data_ + static_cast<std::size_t>(first / kLanes) * part_.group_bytes);
  }

  void pack_panel(std::int64_t index, std::int64_t rows, const std::byte* from) const {
    const std::int64_t stride = part_.panel_groups(index) * kLanes;
    const auto element = static_cast<std::int64_t>(tensor::dtype_bytes(part_.dtype));
    std::byte* panel = data_ + index * kPanel * in_ * element;
    for (std::int64_t k = 0; k < in_; k += kPackTile) {
      const std::int64_t count = std::min(kPackTile, in_ - k);
      for (std::int64_t o = 0; o < rows; ++o) {
        const std::byte* row = from + static_cast<std::size_t>(o) * row_bytes_;
        if (element == 4)
          pack_row(row, k, count, stride, reinterpret_cast<std::uint32_t*>(panel) + o);
        else
          pack_row(row, k, count, stride, reinterpret_cast<std::uint16_t*>(panel) + o);
      }
    }
  }

  const std::span<const ops::LinearSource> sources_;
  const LinearPart& part_;
  const std::int64_t in_;
  const bool isa_signed_;
  std::byte* const data_;
  const std::size_t row_bytes_;
  const std::int64_t unit_;  // rows that are packed together
  const std::int64_t window_rows_;
  const std::int64_t read_rows_;  // of one call to a source
};

}  // namespace

bool ReadWindows::reserve(std::uint64_t bytes) {
  for (Block& window : windows_) {
    if (window.size() >= bytes) continue;
    window = Block();
    window = Block::allocate(std::max<std::uint64_t>(bytes, ops::kReadWindowBytes), false);
    if (!window) return false;
  }
  return true;
}

int LinearPart::panel_groups(std::int64_t panel) const {
  const std::int64_t rest = outs - panel * kPanel;
  return static_cast<int>((std::min<std::int64_t>(rest, kPanel) + kLanes - 1) / kLanes);
}

Result<std::unique_ptr<CpuLinear>> CpuLinear::make(std::span<const ops::LinearSource> sources,
                                                   const QuantKernels& quant, ThreadPool& pool,
                                                   ReadWindows& windows) {
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
      linear->row_bytes_ = std::max(linear->row_bytes_, tensor::row_bytes(part.dtype, shape.in));
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
    PartPacker packer(sources, part, shape.in, quant.isa_signed, at);
    if (!windows.reserve(packer.window_bytes()))
      return Error(Code::kResourceExhausted, fmt::format("no memory to read matrix '{}' through",
                                                         sources[0].weight.info.name));
    MESH_RETURN_IF_ERROR(packer.run(windows, pool));
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
