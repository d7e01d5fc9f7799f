#include "backends/cpu/kv_pool.h"

#include <fmt/format.h>

#include <cstring>
#include <limits>

#include "backends/cpu/kernels.h"
#include "base/random.h"

namespace mesh::backends::cpu {

Result<std::unique_ptr<CpuKvPool>> CpuKvPool::make(const ops::KvLayout& layout,
                                                   std::uint32_t pages) {
  if (!ops::is_kv_type(layout.store) || layout.layers == 0 || layout.kv_heads == 0 ||
      layout.head_dim == 0 || layout.head_dim > 4096 || pages == 0)
    return Error(
        Code::kInvalidArgument,
        fmt::format("KV layout of {} layers, {} heads of {} in {}, {} pages", layout.layers,
                    layout.kv_heads, layout.head_dim, tensor::dtype_name(layout.store), pages));
  std::unique_ptr<CpuKvPool> pool(new CpuKvPool);
  pool->layout_ = layout;
  pool->pages_ = pages;
  pool->element_ = layout.store == ops::DType::kI8     ? KvElement::kI8
                   : layout.store == ops::DType::kBF16 ? KvElement::kBF16
                                                       : KvElement::kF32;
  const std::uint64_t element = tensor::dtype_bytes(layout.store);
  const std::uint64_t scales = pool->element_ == KvElement::kI8
                                   ? kTile * ops::kv_blocks(layout.head_dim) * sizeof(float)
                                   : 0;
  pool->head_stride_ = static_cast<int>((layout.head_dim + kLanes - 1) / kLanes * kLanes);
  pool->v_offset_ = kTile * layout.head_dim * element + scales;
  pool->head_bytes_ =
      pool->v_offset_ + kTile * static_cast<std::uint64_t>(pool->head_stride_) * element + scales;
  const mesh_u128 page =
      static_cast<mesh_u128>(pool->head_bytes_) * layout.kv_heads * layout.layers;
  const mesh_u128 total = page * pages;
  if (total <= static_cast<mesh_u128>(std::numeric_limits<std::int64_t>::max())) {
    pool->page_bytes_ = static_cast<std::uint64_t>(page);
    pool->memory_ = Block::allocate(static_cast<std::uint64_t>(total), false);
  }
  if (!pool->memory_)
    return Error(Code::kResourceExhausted,
                 fmt::format("no memory for {} KV pages: {:.0f} bytes wanted", pages,
                             static_cast<double>(total)));
  return pool;
}

void CpuKvPool::fill_with_nan() {
  std::memset(memory_.data(), 0xFF, memory_.size());
}

}  // namespace mesh::backends::cpu
