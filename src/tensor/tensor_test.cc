#include <gtest/gtest.h>

#include <cmath>

#include "tensor/tensor.h"

namespace mesh::tensor {
namespace {

TEST(Bf16, RoundsToNearestEvenAndKeepsDenormals) {
  EXPECT_EQ(f32_to_bf16(1.0f), 0x3F80);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3F808000u)), 0x3F80);  // tie to even
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x3F818000u)), 0x3F82);
  EXPECT_EQ(f32_to_bf16(std::bit_cast<float>(0x00018000u)), 0x0002);  // denormal
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(NAN))));
  for (std::uint32_t x = 0; x < 0x7F80u; ++x)
    ASSERT_EQ(f32_to_bf16(bf16_to_f32(static_cast<std::uint16_t>(x))), x);
}

TEST(F16, ConvertsEveryFiniteValueExactly) {
  for (std::uint32_t x = 0; x < 0x7C00u; ++x) {
    const int e = static_cast<int>(x >> 10);
    const double expected =
        e == 0 ? std::ldexp(x & 1023, -24) : std::ldexp(1024 + (x & 1023), e - 25);
    ASSERT_EQ(static_cast<double>(f16_to_f32(static_cast<std::uint16_t>(x))), expected) << x;
  }
}

TEST(DTypeNames, RoundTrip) {
  for (DType d : {DType::kF32, DType::kBF16, DType::kF16, DType::kI64, DType::kU8})
    EXPECT_EQ(dtype_from_name(dtype_name(d)), d);
  EXPECT_FALSE(dtype_from_name("F128").has_value());
}

}  // namespace
}  // namespace mesh::tensor
