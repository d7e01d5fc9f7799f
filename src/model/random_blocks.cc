#include "model/random_blocks.h"

#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/random.h"
#include "tensor/quantized.h"

namespace mesh::model {
namespace {

using tensor::DType;

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ull;

// What a scale of 1 gives: the deviation of the values, and the minimum that centres them.
struct Spread {
  double deviation = 1;
  double min_for_one = 0;
};

// Uniform quants q of 0…2ⁿ−1 deviate by (2ⁿ)/√12. Six-bit scales are uniform too: E[sc²] = 63²/3
// about, so values sc·q deviate by about √(E[sc²])·dev(q); min and scale have the same mean.
Spread spread_of(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return {4.6, 0};
    case DType::kQ4_1:
      return {4.6, -7.5};
    case DType::kQ5_0:
      return {9.2, 0};
    case DType::kQ5_1:
      return {9.2, -15.5};
    case DType::kQ8_0:
      return {73.9, 0};
    case DType::kQ2_K:
      return {12.5, 1.5};
    case DType::kQ3_K:
      return {42, 0};
    case DType::kQ4_K:
      return {310, 7.5};
    case DType::kQ5_K:
      return {640, 15.5};
    case DType::kQ6_K:
      return {1370, 0};
    case DType::kIQ4_NL:
      return {69, 0};
    case DType::kIQ4_XS:
      return {1280, 0};
    default:
      return {};
  }
}

const tensor::BlockScales& scales_of(DType dtype) {
  const tensor::BlockScales* line = tensor::block_scales().data();
  while (line->dtype != dtype) ++line;
  return *line;
}

void put_half(std::span<std::byte> out, int at, double value) {
  const std::uint16_t half = tensor::f32_to_f16(static_cast<float>(value));
  std::memcpy(out.data() + at, &half, sizeof(half));
}

}  // namespace

void random_block(DType dtype, std::uint64_t key, std::uint64_t index, float deviation,
                  std::span<std::byte> out) {
  MESH_CHECK(tensor::is_quantized(dtype) && out.size() == tensor::block_bytes(dtype),
             "{} bytes for a block of {}", out.size(), tensor::dtype_name(dtype));
  std::uint64_t state = splitmix64(key + index * kGolden);
  const double spread = 0.75 + 0.5 * static_cast<double>(state >> 11) * 0x1p-53;
  for (std::size_t at = 0; at < out.size(); at += sizeof(state)) {
    state = splitmix64(state);
    std::memcpy(out.data() + at, &state, std::min(sizeof(state), out.size() - at));
  }
  if (dtype == DType::kMXFP4) {  // E2M1 deviates by 2.9 for 2^0
    const int exponent = static_cast<int>(std::lround(std::log2(deviation / 2.9)));
    out[0] = static_cast<std::byte>(127 + exponent);
    return;
  }
  const tensor::BlockScales& scales = scales_of(dtype);
  const Spread unit = spread_of(dtype);
  const double d = deviation / unit.deviation * spread;
  put_half(out, scales.scale, d);
  if (scales.min >= 0) put_half(out, scales.min, d * unit.min_for_one);
}

}  // namespace mesh::model
