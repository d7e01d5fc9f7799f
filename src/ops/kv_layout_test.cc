#include "ops/kv_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

namespace mesh::ops {
namespace {

TEST(KvLayout, BytesCoverElementsAndScales) {
  EXPECT_EQ(kv_page_bytes({3, 2, 40, DType::kF32}), 2u * 64 * 3 * 2 * 40 * 4);
  EXPECT_EQ(kv_page_bytes({3, 2, 40, DType::kBF16}), 2u * 64 * 3 * 2 * 40 * 2);
  EXPECT_EQ(kv_page_bytes({3, 2, 40, DType::kI8}), 2u * 64 * 3 * 2 * (40 + 2 * 4));
}

TEST(KvDtype, NamesThereAndBack) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    EXPECT_TRUE(is_kv_type(dtype));
    EXPECT_EQ(parse_kv_dtype(kv_dtype_name(dtype)).value(), dtype);
  }
  EXPECT_FALSE(is_kv_type(DType::kF16));
  EXPECT_EQ(parse_kv_dtype("q4").error().message, "--kv-dtype q4: choose f32, bf16 or q8");
}

TEST(RoundToKv, StaysWithinHalfAStepOfEachBlock) {
  Prng prng(11);
  std::vector<float> values(40);  // a whole block and a short one
  for (float& x : values) x = static_cast<float>(prng.below(20001)) * 1e-4f - 1.0f;
  values[35] = 900.0f;  // widens the steps of its own block only
  std::vector<float> rounded = values;
  round_to_kv(DType::kI8, rounded);
  float steps[2] = {};
  for (std::size_t i = 0; i < values.size(); ++i)
    steps[i / 32] = std::max(steps[i / 32], std::fabs(values[i]) / 127);
  EXPECT_LT(steps[0], 0.01f);
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_LE(std::fabs(rounded[i] - values[i]), 0.5001f * steps[i / 32]) << i;
    const float whole = rounded[i] / steps[i / 32];
    EXPECT_NEAR(whole, std::nearbyint(whole), 1e-4f) << i;
  }
}

TEST(RoundToKv, LeavesNothingOfTheTinyAndSaysWhatIsNotFinite) {
  std::vector<float> values(96, 0x1p-101f);
  values[40] = std::numeric_limits<float>::infinity();
  values[70] = 1.0f;
  round_to_kv(DType::kI8, values);
  EXPECT_EQ(values[0], 0.0f);
  for (std::size_t i = 32; i < 64; ++i) EXPECT_TRUE(std::isnan(values[i])) << i;
  EXPECT_NEAR(values[70], 1.0f, 1e-6f);
  EXPECT_EQ(values[71], 0.0f);
}

TEST(RoundToKv, Bf16AndF32) {
  std::vector<float> values = {1.0f, 1.00390625f, 1.01f};
  std::vector<float> same = values;
  round_to_kv(DType::kF32, same);
  EXPECT_EQ(same, values);
  round_to_kv(DType::kBF16, values);
  EXPECT_EQ(values, (std::vector<float>{1.0f, 1.0f, 1.0078125f}));
}

}  // namespace
}  // namespace mesh::ops
