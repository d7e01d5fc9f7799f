#pragma once
// What a KV cache holds and how it rounds: shapes, sizes and the names of its types. Pure.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "tensor/dtype.h"

namespace mesh::ops {

using tensor::DType;

// Positions of one KV page, and the bookkeeping tile of attention; part of the numeric class.
inline constexpr int kPageTokens = 64;

// Dimensions of a head that share a scale in a cache of 8 bits.
inline constexpr std::uint32_t kKvBlock = 32;

struct KvLayout {
  std::uint32_t layers =
      0;  // layers of this stage; AttentionSpec::layer counts from 0 within the stage
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  // f32, bf16, or i8: bytes with one f32 scale for each kKvBlock dimensions of a position and head.
  DType store = DType::kBF16;
};

// Whether a cache can be kept in a type.
bool is_kv_type(DType dtype);
// Scales of one position and head, of K or of V, in a cache of 8 bits.
inline std::uint32_t kv_blocks(std::uint32_t head_dim) {
  return (head_dim + kKvBlock - 1) / kKvBlock;
}
// Bytes that one page needs over all layers of the stage; a backend may pad.
std::uint64_t kv_page_bytes(const KvLayout& layout);

// What a cache of `store` gives back for the values of one head, in place. bf16: to nearest even.
// i8: float(q)·d of each block, with q = rne(x·(127/a)), d = a/127, a = max|x| of the block's
// values; a below 2^-100 counts as 0, and a block with a value that is not finite becomes NaN.
// docs/numerics.md, "KV cache".
void round_to_kv(DType store, std::span<float> values);

// Names people write: "f32", "bf16", "q8". Errors: invalid_argument, listing them.
Result<DType> parse_kv_dtype(std::string_view text);
std::string_view kv_dtype_name(DType store);

}  // namespace mesh::ops
