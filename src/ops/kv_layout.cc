#include "ops/kv_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace mesh::ops {
namespace {

struct Name {
  DType dtype;
  std::string_view name;
};
constexpr Name kNames[] = {{DType::kF32, "f32"}, {DType::kBF16, "bf16"}, {DType::kI8, "q8"}};

void round_block(std::span<float> values) {
  float a = 0;
  bool finite = true;
  for (const float x : values) {
    finite = finite && std::isfinite(x);
    a = std::max(a, std::fabs(x));
  }
  if (!finite)
    return std::fill(values.begin(), values.end(), std::numeric_limits<float>::quiet_NaN());
  if (a < 0x1p-100f) return std::fill(values.begin(), values.end(), 0.0f);
  const float scale = 127.0f / a, d = a / 127.0f;
  for (float& x : values) x = std::nearbyint(x * scale) * d;
}

}  // namespace

bool is_kv_type(DType dtype) {
  return std::any_of(std::begin(kNames), std::end(kNames),
                     [&](const Name& row) { return row.dtype == dtype; });
}

std::uint64_t kv_page_bytes(const KvLayout& layout) {
  const std::uint64_t scales =
      layout.store == DType::kI8 ? kv_blocks(layout.head_dim) * sizeof(float) : 0;
  return std::uint64_t{2} * kPageTokens * layout.layers * layout.kv_heads *
         (layout.head_dim * tensor::dtype_bytes(layout.store) + scales);
}

void round_to_kv(DType store, std::span<float> values) {
  if (store == DType::kBF16)
    for (float& x : values) x = tensor::bf16_to_f32(tensor::f32_to_bf16(x));
  if (store != DType::kI8) return;
  for (std::size_t at = 0; at < values.size(); at += kKvBlock)
    round_block(values.subspan(at, std::min<std::size_t>(kKvBlock, values.size() - at)));
}

Result<DType> parse_kv_dtype(std::string_view text) {
  for (const Name& row : kNames)
    if (row.name == text) return row.dtype;
  return Error(Code::kInvalidArgument, fmt::format("--kv-dtype {}: choose f32, bf16 or q8", text));
}

std::string_view kv_dtype_name(DType store) {
  for (const Name& row : kNames)
    if (row.dtype == store) return row.name;
  MESH_CHECK(false, "a KV cache of type {}", tensor::dtype_name(store));
  return {};
}

}  // namespace mesh::ops
