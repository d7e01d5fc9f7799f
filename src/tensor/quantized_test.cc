#include "tensor/quantized.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "tensor/quantize.h"

namespace mesh::tensor {
namespace {

TEST(F16, RoundsToNearestEven) {
  for (std::uint32_t x = 0; x < 0x7C00u; ++x) {
    const auto half = static_cast<std::uint16_t>(x);
    ASSERT_EQ(f32_to_f16(f16_to_f32(half)), half);
    if (x + 1 == 0x7C00u) break;
    const float low = f16_to_f32(half), high = f16_to_f32(static_cast<std::uint16_t>(x + 1));
    const float middle = (low + high) / 2;  // exact in f32
    ASSERT_EQ(f32_to_f16(middle), x % 2 == 0 ? x : x + 1) << x;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), x);
    ASSERT_EQ(f32_to_f16(-std::nextafter(middle, 1e9f)), 0x8000u | (x + 1));
  }
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7BFF);
  EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(NAN))));
}

TEST(Quantize, StaysWithinHalfAStepOfEveryBlock) {
  for (const DType type : {DType::kQ8_0, DType::kQ4_0}) {
    Prng prng(11);
    std::vector<float> values(32 * 64), back(values.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = (static_cast<float>(prng.below(20001)) - 10000.0f) *
                  std::ldexp(1e-4f, static_cast<int>(i / 32 % 9) - 4);
    for (std::size_t i = 0; i < 32; ++i) values[i] = 0;  // a block of zeros
    std::vector<std::byte> blocks(values.size() / 32 * block_bytes(type));
    quantize(type, values.data(), static_cast<std::int64_t>(values.size()), blocks.data());
    dequantize(type, blocks.data(), static_cast<std::int64_t>(values.size()), back.data());
    for (std::size_t block = 0; block < values.size(); block += 32) {
      float most = 0;
      for (std::size_t i = block; i < block + 32; ++i) most = std::fmax(most, std::fabs(values[i]));
      // The scale is a half: 127 steps of 2^-11 make up for 0.04. Q4_0 has 8 steps to one side and
      // 7 to the other, so its far end may be a whole step off.
      const float bound = type == DType::kQ8_0 ? most / 127 * 0.54f : most / 8 * 1.01f;
      for (std::size_t i = block; i < block + 32; ++i)
        ASSERT_LE(std::fabs(back[i] - values[i]), bound)
            << dtype_name(type) << " value " << i << " seed 11";
    }
  }
}

TEST(Quantize, KeepsWhatItWrote) {  // a second rounding changes nothing
  Prng prng(12);
  std::vector<float> values(32 * 8), back(values.size());
  for (float& x : values) x = static_cast<float>(prng.below(2001)) - 1000.0f;
  std::vector<std::byte> once(8 * block_bytes(DType::kQ8_0)), twice(once.size());
  quantize(DType::kQ8_0, values.data(), 256, once.data());
  dequantize(DType::kQ8_0, once.data(), 256, back.data());
  quantize(DType::kQ8_0, back.data(), 256, twice.data());
  EXPECT_EQ(once, twice);
}

}  // namespace
}  // namespace mesh::tensor
