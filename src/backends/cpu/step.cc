#include "backends/cpu/step.h"

#include <algorithm>
#include <cstring>

#include "backends/cpu/attention.h"
#include "backends/cpu/float_mode.h"
#include "backends/cpu/weights.h"
#include "base/check.h"
#include "ops/exact_math.h"

namespace mesh::backends::cpu {
namespace {

constexpr int kRowChunk = 192;  // rows of a product whose block of x stays in the second cache

const CpuLinear& cpu_linear(const ops::Linear& w) {
  return static_cast<const CpuLinear&>(w);
}
const CpuVec& cpu_vec(const ops::Vec& w) {
  return static_cast<const CpuVec&>(w);
}

// Blocks of K as the class says; the mutation splits K by the thread count, which tests must
// notice.
int block_length([[maybe_unused]] int threads) {
#ifdef MESH_MUTATE_K_SPLIT_BY_THREADS
  return kBlockK / threads;
#else
  return kBlockK;
#endif
}

LinearArgs panel_args(const CpuLinear& w, const LinearPart& part, std::int64_t panel,
                      const ops::Tensor& x, const ops::Tensor& y, int threads) {
  const std::int64_t out = part.begin + panel * kPanel;
  LinearArgs a;
  a.w = part.data +
        panel * kPanel * w.in() * static_cast<std::int64_t>(tensor::dtype_bytes(part.dtype));
  a.in = w.in();
  a.groups = part.panel_groups(panel);
  a.outs = static_cast<int>(std::min<std::int64_t>(kPanel, part.outs - panel * kPanel));
  a.x = static_cast<const float*>(x.data);
  a.ldx = x.cols;
  a.y = static_cast<float*>(y.data) + out;
  a.ldy = y.cols;
  a.rows = static_cast<int>(x.rows);
  a.bias = w.bias() == nullptr ? nullptr : w.bias() + out;
  a.block = block_length(threads);
  return a;
}

// Groups [begin, end) of a quantised part against all rows of x.
QuantArgs group_args(const CpuLinear& w, const LinearPart& part, std::int64_t begin,
                     std::int64_t end, const void* tiles, const ops::Tensor& y) {
  const std::int64_t out = part.begin + begin * kLanes;
  QuantArgs a;
  a.w = part.data + static_cast<std::size_t>(begin) * part.group_bytes;
  a.group_bytes = part.group_bytes;
  a.groups = static_cast<int>(end - begin);
  a.outs = static_cast<int>(std::min(end * kLanes, part.outs) - begin * kLanes);
  a.in = w.in();
  a.x = tiles;
  a.rows = static_cast<int>(y.rows);
  a.y = static_cast<float*>(y.data) + out;
  a.ldy = y.cols;
  a.bias = w.bias() == nullptr ? nullptr : w.bias() + out;
  return a;
}

}  // namespace

std::unique_ptr<ops::Step> StepSlot::begin(const Device& device, CpuKvPool* kv,
                                           const ops::Batch& batch) {
  busy_ = true;
  return std::unique_ptr<ops::Step>(::new (storage_.data()) CpuStep(device, *this, kv, batch));
}

void StepSlot::end(CpuStep* step) {
  step->~CpuStep();
  pinned_.clear();
  busy_ = false;
}

void CpuStep::operator delete(CpuStep* step, std::destroying_delete_t) {
  step->slot_.end(step);
}

CpuStep::CpuStep(const Device& device, StepSlot& slot, CpuKvPool* kv, const ops::Batch& batch)
    : device_(device), slot_(slot), kv_(kv), batch_(batch) {
  MESH_CHECK(batch.row_start.size() == batch.sequences() + 1 &&
                 batch.row_start.back() == static_cast<std::int64_t>(batch.rows()),
             "row_start of {} for {} sequences", batch.row_start.size(), batch.sequences());
  if (kv_ != nullptr) check_pages();
}

// A page table that does not cover its cache is our own bug and would read foreign memory.
void CpuStep::check_pages() const {
  for (std::size_t s = 0; s < batch_.sequences(); ++s) {
    const std::int64_t pages = batch_.page_start[s + 1] - batch_.page_start[s];
    MESH_CHECK(pages * kTile >= batch_.kv_length[s], "{} pages for {} positions", pages,
               batch_.kv_length[s]);
    for (std::int32_t r = batch_.row_start[s]; r < batch_.row_start[s + 1]; ++r) {
      const std::int32_t wanted = batch_.kv_length[s] - (batch_.row_start[s + 1] - r);
      MESH_CHECK(batch_.positions[static_cast<std::size_t>(r)] == wanted && wanted >= 0,
                 "row {} at position {}, {} is wanted", r,
                 batch_.positions[static_cast<std::size_t>(r)], wanted);
    }
  }
  for (const PageId page : batch_.pages)
    MESH_CHECK(page.value < kv_->pages(), "page {} of {}", page.value, kv_->pages());
}

ops::Tensor CpuStep::make(ops::DType dtype, std::int64_t rows, std::int64_t cols) {
  ops::Tensor tensor;
  tensor.dtype = dtype;
  tensor.rows = rows;
  tensor.cols = cols;
  tensor.node = take(static_cast<std::uint64_t>(rows * cols) * tensor::dtype_bytes(dtype));
  tensor.data = tensor.node.get();
  return tensor;
}

std::shared_ptr<void> CpuStep::scratch(std::uint64_t bytes) {
  return take(bytes);
}

std::shared_ptr<void> CpuStep::take(std::uint64_t bytes) {
  std::shared_ptr<void> memory = slot_.buffers().take(bytes);
  forget_rounded(memory.get());
  return memory;
}

void CpuStep::forget_rounded(const void* memory) {
  for (Rounded& kept : rounded_)
    if (kept.x == memory) kept = {};
}

const CpuStep::Rotation& CpuStep::rotation(const ops::RopeTable& table) {
  for (const Rotation& known : rotations_)
    if (known.table == &table) return known;
  device_.uses->note(Kernel::kRopeTable);
  Rotation& fresh = rotations_[rotation_next_++ % rotations_.size()];
  const std::int64_t pairs = table.dims() / 2, rows = static_cast<std::int64_t>(batch_.rows());
  fresh.table = &table;
  fresh.memory = scratch(static_cast<std::uint64_t>(2 * rows * pairs) * sizeof(float));
  float* cosines = static_cast<float*>(fresh.memory.get());
  float* sines = cosines + rows * pairs;
  fresh.cosines = cosines;
  fresh.sines = sines;
  for_range(*device_.pool, rows, 8, [&](std::int64_t begin, std::int64_t end, int) {
    set_float_mode();
    for (std::int64_t row = begin; row < end; ++row) {
      const double position = batch_.positions[static_cast<std::size_t>(row)];
      for (std::int64_t i = 0; i < pairs; ++i) {
        const ops::SinCos angle =
            ops::exact_sincos(position * table.inv_freq[static_cast<std::size_t>(i)]);
        cosines[row * pairs + i] = static_cast<float>(angle.cos * table.factor);
        sines[row * pairs + i] = static_cast<float>(angle.sin * table.factor);
      }
    }
  });
  return fresh;
}

ops::Tensor CpuStep::embed(const ops::Linear& table) {
  const CpuLinear& w = cpu_linear(table);
  const std::int64_t rows = static_cast<std::int64_t>(batch_.rows());
  MESH_CHECK(w.in() == batch_.hidden && batch_.tokens.size() == batch_.rows(),
             "embedding of {} for hidden {}, {} tokens", w.in(), batch_.hidden,
             batch_.tokens.size());
  device_.uses->note(Kernel::kEmbed);
  ops::Tensor out = make(batch_.residual, rows, w.in());
  const std::shared_ptr<void> wide =
      scratch(static_cast<std::uint64_t>(rows * w.in()) * sizeof(float));
  const std::shared_ptr<void> stored =
      scratch(static_cast<std::uint64_t>(device_.pool->threads()) * w.row_bytes());
  for_range(*device_.pool, rows, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
    set_float_mode();
    std::byte* blocks =
        static_cast<std::byte*>(stored.get()) + static_cast<std::size_t>(worker) * w.row_bytes();
    for (std::int64_t row = begin; row < end; ++row) {
      const TokenId token = batch_.tokens[static_cast<std::size_t>(row)];
      MESH_CHECK(token >= 0 && token < w.out(), "token {} of {}", token, w.out());
      if (batch_.residual == ops::DType::kF32) {
        w.row(token, blocks, static_cast<float*>(out.data) + row * w.in());
        continue;
      }
      float* values = static_cast<float*>(wide.get()) + row * w.in();
      w.row(token, blocks, values);
      auto* rounded = static_cast<std::uint16_t*>(out.data) + row * w.in();
      for (std::int64_t k = 0; k < w.in(); ++k) rounded[k] = tensor::f32_to_bf16(values[k]);
    }
  });
  return out;
}

ops::Tensor CpuStep::residual_in() {
  const std::int64_t rows = static_cast<std::int64_t>(batch_.rows());
  const std::size_t bytes = batch_.rows() * static_cast<std::size_t>(batch_.hidden) *
                            tensor::dtype_bytes(batch_.residual);
  MESH_CHECK(batch_.residual_in.size() == bytes, "{} bytes of residual for [{}, {}]",
             batch_.residual_in.size(), rows, batch_.hidden);
  ops::Tensor out = make(batch_.residual, rows, batch_.hidden);
  std::memcpy(out.data, batch_.residual_in.data(), bytes);
  return out;
}

ops::Tensor CpuStep::rms_norm(const ops::Tensor& x, const ops::Vec& w, float eps) {
  MESH_CHECK(w.size() == x.cols, "norm of {} over rows of {}", w.size(), x.cols);
  const bool bf16 = x.dtype == ops::DType::kBF16;
  MESH_CHECK(bf16 || x.dtype == ops::DType::kF32, "norm of {}", tensor::dtype_name(x.dtype));
  device_.uses->note(bf16 ? Kernel::kRmsNormBF16 : Kernel::kRmsNormF32);
  const auto kernel = bf16 ? device_.kernels->rms_norm_bf16 : device_.kernels->rms_norm_f32;
  const std::int64_t row_bytes = x.cols * static_cast<std::int64_t>(tensor::dtype_bytes(x.dtype));
  const float* weight = cpu_vec(w).data();
  ops::Tensor out = make(ops::DType::kF32, x.rows, x.cols);
  for_range(*device_.pool, x.rows, grain_rows(x.cols),
            [&](std::int64_t begin, std::int64_t end, int) {
              set_float_mode();
              for (std::int64_t row = begin; row < end; ++row)
                kernel(static_cast<const std::byte*>(x.data) + row * row_bytes, weight, eps, x.cols,
                       static_cast<float*>(out.data) + row * x.cols);
            });
  return out;
}

ops::Tensor CpuStep::linear(const ops::Tensor& x, const ops::Linear& w_any) {
  const CpuLinear& w = cpu_linear(w_any);
  MESH_CHECK(x.dtype == ops::DType::kF32 && x.cols == w.in(), "product of [{}, {}] with [{}, {}]",
             x.rows, x.cols, w.out(), w.in());
  ops::Tensor y = make(ops::DType::kF32, x.rows, w.out());
  for (const LinearPart& part : w.parts())
    part.quant >= 0 ? quantised_part(x, w, part, y) : float_part(x, w, part, y);
#ifdef MESH_MUTATE_SWAP_ROWS
  if (y.rows >= 2)
    std::swap_ranges(static_cast<float*>(y.data), static_cast<float*>(y.data) + y.cols,
                     static_cast<float*>(y.data) + y.cols);
#endif
  return y;
}

std::shared_ptr<void> CpuStep::rounded(const ops::Tensor& x, bool wide) {
  Rounded& kept = rounded_[wide ? 1 : 0];
  if (kept.x == x.data && kept.rows == x.rows && kept.cols == x.cols) return kept.tiles;
  device_.uses->note(wide ? Kernel::kQuantize256 : Kernel::kQuantize32);
  const auto kernel = wide ? device_.quant.quantize256 : device_.quant.quantize32;
  const int tile = x.rows == 1 ? 1 : kActRows;
  const std::uint64_t block = wide        ? tile == 1 ? sizeof(Act256<1>) : sizeof(Act256<kActRows>)
                                     : tile == 1 ? sizeof(Act32<1>)
                                          : sizeof(Act32<kActRows>);
  const std::uint64_t stride = block * static_cast<std::uint64_t>(x.cols / (wide ? 256 : 32));
  const std::int64_t count = (x.rows + tile - 1) / tile;
  std::shared_ptr<void> tiles = scratch(static_cast<std::uint64_t>(count) * stride);
  for_range(
      *device_.pool, count, grain_rows(x.cols * tile),
      [&](std::int64_t begin, std::int64_t end, int) {
        set_float_mode();
        const std::int64_t row = begin * tile, rows = std::min(end * tile, x.rows) - row;
        kernel(static_cast<const float*>(x.data) + row * x.cols, x.cols, static_cast<int>(rows),
               x.cols, tile,
               static_cast<std::byte*>(tiles.get()) + static_cast<std::uint64_t>(begin) * stride);
      });
  kept = {x.data, x.rows, x.cols, tiles};
  return tiles;
}

void CpuStep::quantised_part(const ops::Tensor& x, const CpuLinear& w, const LinearPart& part,
                             const ops::Tensor& y) {
  const bool one = x.rows == 1;
  const auto kernel = one ? device_.quant.one[part.quant] : device_.quant.rows[part.quant];
  device_.uses->note(static_cast<Kernel>(
      static_cast<int>(one ? Kernel::kQuantOne : Kernel::kQuantRows) + part.quant));
  const std::shared_ptr<void> tiles = rounded(x, is_256(part.quant));
  // Contiguous groups, in pairs since kernels for many rows take two at once: a thread reads one
  // sequential stream.
  const std::int64_t groups = part.groups();
  for_range(*device_.pool, (groups + 1) / 2, 1, [&](std::int64_t begin, std::int64_t end, int) {
    set_float_mode();
    kernel(group_args(w, part, 2 * begin, std::min(2 * end, groups), tiles.get(), y));
  });
}

void CpuStep::float_part(const ops::Tensor& x, const CpuLinear& w, const LinearPart& part,
                         const ops::Tensor& y) {
  const int type = part.type, threads = device_.pool->threads();
  const KernelTable& kernels = *device_.kernels;
  const int variant = x.rows == 1 ? 0 : x.rows <= kFewRows ? 1 : 2;
  device_.uses->note(
      static_cast<Kernel>(static_cast<int>(Kernel::kLinearOneF32) + kWeightTypes * variant + type));
  const std::shared_ptr<void> memory =
      variant == 0
          ? nullptr
          : scratch(static_cast<std::uint64_t>(threads) * kBlockK * kPanel * sizeof(float));
  auto scratch_of = [&](int worker) {
    return memory == nullptr ? nullptr
                             : static_cast<float*>(memory.get()) +
                                   static_cast<std::int64_t>(worker) * kBlockK * kPanel;
  };
  const std::int64_t panels = part.panels();
  if (variant < 2) {
    const auto kernel = variant == 0 ? kernels.linear_one[type] : kernels.linear_few[type];
    for_range(*device_.pool, panels, 1, [&](std::int64_t begin, std::int64_t end, int worker) {
      set_float_mode();
      for (std::int64_t panel = begin; panel < end; ++panel) {
        LinearArgs a = panel_args(w, part, panel, x, y, threads);
        a.scratch = scratch_of(worker);
        kernel(a);
      }
    });
    return;
  }
  const std::int64_t chunks = (x.rows + kRowChunk - 1) / kRowChunk;
  // All panels of one chunk of rows, then the next chunk: x stays in the cache.
  for_range(*device_.pool, panels * chunks, 1,
            [&](std::int64_t begin, std::int64_t end, int worker) {
              set_float_mode();
              for (std::int64_t unit = begin; unit < end; ++unit) {
                LinearArgs a = panel_args(w, part, unit % panels, x, y, threads);
                const std::int64_t row = unit / panels * kRowChunk;
                a.x += row * a.ldx;
                a.y += row * a.ldy;
                a.rows = static_cast<int>(std::min<std::int64_t>(kRowChunk, x.rows - row));
                a.scratch = scratch_of(worker);
                kernels.linear_many[type](a);
              }
            });
}

ops::Tensor CpuStep::attention(const ops::AttentionSpec& spec, const ops::Tensor& qkv) {
  return run_attention(*this, spec, qkv);
}

ops::Tensor CpuStep::swiglu(const ops::Tensor& gate_up) {
  MESH_CHECK(gate_up.dtype == ops::DType::kF32 && gate_up.cols % 2 == 0,
             "gate and up of {} columns", gate_up.cols);
  device_.uses->note(Kernel::kSwiglu);
  const std::int64_t n = gate_up.cols / 2;
  ops::Tensor out = make(ops::DType::kF32, gate_up.rows, n);
  for_range(*device_.pool, gate_up.rows, grain_rows(n),
            [&](std::int64_t begin, std::int64_t end, int) {
              set_float_mode();
              for (std::int64_t row = begin; row < end; ++row) {
                const float* gate = static_cast<const float*>(gate_up.data) + row * 2 * n;
                device_.kernels->swiglu(gate, gate + n, n, static_cast<float*>(out.data) + row * n);
              }
            });
  return out;
}

void CpuStep::add_residual(ops::Tensor& residual, const ops::Tensor& y) {
  MESH_CHECK(y.dtype == ops::DType::kF32 && residual.rows == y.rows && residual.cols == y.cols,
             "[{}, {}] added to [{}, {}]", y.rows, y.cols, residual.rows, residual.cols);
  const bool bf16 = residual.dtype == ops::DType::kBF16;
  device_.uses->note(bf16 ? Kernel::kAddBF16 : Kernel::kAddF32);
  forget_rounded(residual.data);
  const auto kernel = bf16 ? device_.kernels->add_bf16 : device_.kernels->add_f32;
  const std::int64_t row_bytes =
      residual.cols * static_cast<std::int64_t>(tensor::dtype_bytes(residual.dtype));
  for_range(*device_.pool, y.rows, grain_rows(y.cols),
            [&](std::int64_t begin, std::int64_t end, int) {
              set_float_mode();
              kernel(static_cast<std::byte*>(residual.data) + begin * row_bytes,
                     static_cast<const float*>(y.data) + begin * y.cols, (end - begin) * y.cols);
            });
}

ops::Tensor CpuStep::take_rows(const ops::Tensor& x, std::span<const std::int32_t> rows) {
  device_.uses->note(Kernel::kTakeRows);
  ops::Tensor out = make(x.dtype, static_cast<std::int64_t>(rows.size()), x.cols);
  const std::size_t bytes = static_cast<std::size_t>(x.cols) * tensor::dtype_bytes(x.dtype);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    MESH_CHECK(rows[i] >= 0 && rows[i] < x.rows, "row {} of {}", rows[i], x.rows);
    std::memcpy(static_cast<std::byte*>(out.data) + i * bytes,
                static_cast<const std::byte*>(x.data) + static_cast<std::size_t>(rows[i]) * bytes,
                bytes);
  }
  return out;
}

std::span<const std::byte> CpuStep::read(const ops::Tensor& x) {
  slot_.pin(x.node);
  return {static_cast<const std::byte*>(x.data),
          static_cast<std::size_t>(x.rows * x.cols) * tensor::dtype_bytes(x.dtype)};
}

}  // namespace mesh::backends::cpu
