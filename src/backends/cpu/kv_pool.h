#pragma once
// Pages of K and V in the layout of the attention kernels.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "backends/cpu/kernels.h"
#include "backends/cpu/memory.h"
#include "base/result.h"
#include "ops/ops.h"

namespace mesh::backends::cpu {

// A page holds, for each layer and K/V head, K as [4][head_dim][16 positions] and V as
// [64][head_stride] with head_stride = head_dim rounded up to 16. In a cache of 8 bits K is
// followed by its scales, f32 [4][blocks][16 positions], and V by its own, f32 [64][blocks]; blocks
// of 32 dimensions. Memory is reserved at once and touched when written.
class CpuKvPool final : public ops::KvPool {
 public:
  // Errors: invalid_argument (layout), resource_exhausted with the bytes wanted.
  static Result<std::unique_ptr<CpuKvPool>> make(const ops::KvLayout& layout, std::uint32_t pages);

  std::uint32_t pages() const override { return pages_; }
  std::uint64_t bytes_per_page() const override { return page_bytes_; }
  void fill_with_nan() override;

  const ops::KvLayout& layout() const { return layout_; }
  KvElement element() const { return element_; }
  int head_stride() const { return head_stride_; }
  std::size_t v_offset() const { return v_offset_; }
  // K of one layer and head in page 0; later pages lie bytes_per_page() apart.
  std::byte* head(std::uint32_t layer, std::uint32_t kv_head) const {
    return memory_.data() + (layer * layout_.kv_heads + kv_head) * head_bytes_;
  }

 private:
  CpuKvPool() = default;
  ops::KvLayout layout_;
  KvElement element_ = KvElement::kF32;
  std::uint32_t pages_ = 0;
  int head_stride_ = 0;
  std::size_t v_offset_ = 0;
  std::uint64_t head_bytes_ = 0;
  std::uint64_t page_bytes_ = 0;
  Block memory_;
};

}  // namespace mesh::backends::cpu
