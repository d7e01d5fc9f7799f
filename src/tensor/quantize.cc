#include "tensor/quantize.h"

#include <cmath>
#include <cstring>

#include "base/check.h"

namespace mesh::tensor {
namespace {

constexpr int kBlock = 32;

// Nearest even, by arithmetic: the rounding mode is the default one.
int nearest(float x) {
  return static_cast<int>(std::nearbyint(x));
}

void put_half(std::byte* p, float x) {
  const std::uint16_t bits = f32_to_f16(x);
  std::memcpy(p, &bits, sizeof(bits));
}

void to_q8_0(const float* x, std::byte* p) {
  float most = 0;
  for (int j = 0; j < kBlock; ++j) most = std::fmax(most, std::fabs(x[j]));
  const float d = most / 127.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  put_half(p, d);
  for (int j = 0; j < kBlock; ++j) {
    const int q = nearest(x[j] * inverse);
    p[2 + j] = static_cast<std::byte>(static_cast<std::int8_t>(q < -127  ? -127
                                                               : q > 127 ? 127
                                                                         : q));
  }
}

// The value of largest magnitude becomes -8 steps, so that all sixteen levels are used.
void to_q4_0(const float* x, std::byte* p) {
  float most = 0, extreme = 0;
  for (int j = 0; j < kBlock; ++j)
    if (std::fabs(x[j]) > most) {
      most = std::fabs(x[j]);
      extreme = x[j];
    }
  const float d = extreme / -8.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  put_half(p, d);
  const auto level = [&](float v) {
    const int q = nearest(v * inverse) + 8;
    return static_cast<unsigned>(q < 0 ? 0 : q > 15 ? 15 : q);
  };
  for (int j = 0; j < kBlock / 2; ++j)
    p[2 + j] = static_cast<std::byte>(level(x[j]) | level(x[j + kBlock / 2]) << 4);
}

}  // namespace

bool can_quantize(DType dtype) {
  return dtype == DType::kQ8_0 || dtype == DType::kQ4_0;
}

void quantize(DType dtype, const float* values, std::int64_t count, std::byte* blocks) {
  MESH_CHECK(can_quantize(dtype) && count % kBlock == 0, "{} values to {}", count,
             dtype_name(dtype));
  const auto convert = dtype == DType::kQ8_0 ? to_q8_0 : to_q4_0;
  for (std::int64_t i = 0; i < count; i += kBlock, blocks += block_bytes(dtype))
    convert(values + i, blocks);
}

}  // namespace mesh::tensor
