#pragma once
// Kernels of numeric class cpu/1 as one table per instruction set. Plain data only: the files that
// are compiled with instruction-set flags include this header, and no shared inline code may be
// emitted there (one definition rule).

#include <cstddef>
#include <cstdint>

#include "backends/cpu/quant.h"

namespace mesh::backends::cpu {

// --- shape of the numeric class
// ---------------------------------------------------------------------------------
inline constexpr int kLanes = 16;  // outputs of one group; partial sums of a norm
inline constexpr int kPanel = 64;  // outputs that lie side by side in one weight stream (4 groups)
inline constexpr int kBlockK = 256;   // one chain of fused multiply-adds
inline constexpr int kTile = 64;      // positions of a bookkeeping tile of attention = one KV page
inline constexpr int kSegment = 512;  // positions of a segment of attention
inline constexpr int kFewRows = 16;   // above it a block of weights is widened once for all rows
inline constexpr int kMaxQueries =
    24;  // (row, head) pairs that one unit of attention walks through the cache together

enum WeightType : int { kWeightF32 = 0, kWeightBF16 = 1, kWeightF16 = 2, kWeightTypes = 3 };

// One panel of a product. Weights: for each k, groups·16 outputs side by side.
struct LinearArgs {
  const void* w = nullptr;
  std::int64_t in = 0;
  int groups = 0;            // 1..4 groups of 16 in this panel
  int outs = 0;              // outputs of the panel that exist, ≤ groups·16
  const float* x = nullptr;  // [rows, in], row stride ldx
  std::int64_t ldx = 0;
  float* y = nullptr;  // first output of the panel, row stride ldy
  std::int64_t ldy = 0;
  int rows = 0;
  const float* bias = nullptr;  // [outs] of the panel, or null
  float* scratch = nullptr;     // kBlockK·kPanel floats; unused for one row
  int block = kBlockK;
};

// Element types of the KV cache.
enum class KvElement : int { kF32, kBF16, kI8 };

// Queries of one sequence and one K/V head against the segments [segment_begin, segment_end) of the
// cache.
struct AttendArgs {
  const std::byte* cache = nullptr;      // of this layer and K/V head, page 0
  std::size_t page_bytes = 0;            // from one page to the next
  std::size_t v_offset = 0;              // of V behind K within a page
  const std::uint32_t* pages = nullptr;  // page table of the sequence
  KvElement element = KvElement::kF32;
  int head_dim = 0;
  int head_stride = 0;  // head_dim rounded up to 16: a row of V, a row of o
  int window = 0;
  int queries = 0;                   // ≤ kMaxQueries
  const float* q[kMaxQueries] = {};  // scaled, [head_dim] each
  std::int32_t position[kMaxQueries] = {};
  std::int32_t segment_begin = 0, segment_end = 0;
  float* part[kMaxQueries] =
      {};                    // result of a query: M, l, seen (1 or 0), pad, then o[head_stride]
  float* scratch = nullptr;  // attend_scratch_floats()
#ifdef MESH_MUTATE_FRESH_KV
  const float* fresh_k =
      nullptr;  // K of this step before it was rounded, first row of the sequence
  std::int64_t fresh_stride = 0;
  std::int32_t fresh_begin = 0, fresh_end = 0;
#endif
};

inline constexpr int kPartHeader = 16;  // floats in front of o in a part: keeps o aligned

// Floats of scratch one unit of attention needs: scores, partial sums, o of the running segment.
constexpr std::size_t attend_scratch_floats(int head_stride) {
  return static_cast<std::size_t>(kMaxQueries) *
         (kTile + kLanes + static_cast<std::size_t>(head_stride));
}

// One head of one row on its way into attention: norm (weight or null), rotation (cosines or null),
// scale.
struct HeadArgs {
  const float* x = nullptr;
  float* y = nullptr;  // [head_dim]
  int head_dim = 0;
  const float* norm = nullptr;
  float eps = 0;
  const float* cosines = nullptr;  // [rope_pairs]
  const float* sines = nullptr;
  int rope_pairs = 0;
  bool interleaved = false;
  float scale = 1.0f;  // multiplied last when it is not 1
};

struct KernelTable {
  const char* isa = "";
  void (*linear_one[kWeightTypes])(const LinearArgs&) = {};  // 1 row
  void (*linear_few[kWeightTypes])(const LinearArgs&) = {};  // 2..kFewRows rows
  void (*linear_many[kWeightTypes])(const LinearArgs&) = {};
  void (*rms_norm_f32)(const void* x, const float* w, float eps, std::int64_t n,
                       float* y) = nullptr;
  void (*rms_norm_bf16)(const void* x, const float* w, float eps, std::int64_t n,
                        float* y) = nullptr;
  void (*swiglu)(const float* gate, const float* up, std::int64_t n, float* y) = nullptr;
  void (*softmax)(const float* x, std::int64_t n, float* p) = nullptr;  // n ≥ 1
  void (*add_weighted)(float weight, const float* y, std::int64_t n, float* acc) = nullptr;
  void (*add_gated)(float gate, const float* shared, std::int64_t n, float* y) = nullptr;
  void (*add_f32)(void* residual, const float* y, std::int64_t n) = nullptr;
  void (*add_bf16)(void* residual, const float* y, std::int64_t n) = nullptr;
  void (*prepare_head)(const HeadArgs&) = nullptr;
  // K of one position into its page (slot in 0..63), V likewise.
  void (*store_k)(const float* k, int head_dim, int slot, std::byte* page,
                  KvElement element) = nullptr;
  void (*store_v)(const float* v, int head_dim, int head_stride, int slot, std::byte* page,
                  KvElement element) = nullptr;
  void (*attend)(const AttendArgs&) = nullptr;
  // Joins `parts` consecutive parts (stride in floats) in order, then the sink if not null, and
  // writes out[head_dim].
  void (*merge)(const float* parts, int count, std::int64_t stride, const float* sink, int head_dim,
                int head_stride, float* scratch, float* out) = nullptr;
  void (*exp)(const float* x, std::int64_t n,
              float* y) = nullptr;  // for tests of the class exp at this width
  QuantKernels quant;               // of the 32-blocks; isa.h joins those of the 256-blocks
};

const KernelTable& scalar_plain_kernels();
#ifdef MESH_CPU_X86
const KernelTable& scalar_fma_kernels();
const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
#endif
#ifdef MESH_CPU_ARM
const KernelTable& neon_kernels();
const KernelTable& neon_dotprod_kernels();
#endif

}  // namespace mesh::backends::cpu
