#include "ops/exact_math.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "base/random.h"
#include "ops/constants.h"

namespace mesh::ops {
namespace {

// Distance of `got` from `expected` in units of the last place of a double (or float) near
// `expected`.
double ulps64(double got, long double expected) {
  int e = 0;
  std::frexp(static_cast<double>(expected), &e);
  return static_cast<double>(std::fabs(static_cast<long double>(got) - expected) /
                             std::ldexp(1.0L, std::max(e - 53, -1074)));
}
double ulps32(float got, long double expected) {
  int e = 0;
  std::frexp(static_cast<double>(expected), &e);
  return static_cast<double>(std::fabs(static_cast<long double>(got) - expected) /
                             std::ldexp(1.0L, std::max(e - 24, -149)));
}

TEST(ExactMath, SinAndCosStayWithinOneUlpUpToFourMillion) {
  Prng prng(1);
  double worst = 0;
  for (int i = 0; i < 400'000; ++i) {
    const double bound = std::ldexp(1.0, static_cast<int>(prng.below(45)) - 21);
    const double x = prng.range(-bound, bound);
    const SinCos sc = exact_sincos(x);
    worst = std::max({worst, ulps64(sc.sin, std::sin(static_cast<long double>(x))),
                      ulps64(sc.cos, std::cos(static_cast<long double>(x)))});
    ASSERT_LE(worst, 1.0) << std::hexfloat << x;
  }
  for (int pos = 0; pos < 4'194'304; pos += 997) {
    const double x = pos;
    ASSERT_LE(ulps64(exact_sin(x), std::sin(static_cast<long double>(x))), 1.0) << pos;
    ASSERT_LE(ulps64(exact_cos(x), std::cos(static_cast<long double>(x))), 1.0) << pos;
  }
}

TEST(ExactMath, SinAndCosKnowTheirDomain) {
  EXPECT_EQ(exact_sin(0.0), 0.0);
  EXPECT_TRUE(std::signbit(exact_sin(-0.0)));
  EXPECT_EQ(exact_cos(0.0), 1.0);
  EXPECT_TRUE(std::isnan(exact_sin(0x1p+24)));
  EXPECT_TRUE(std::isnan(exact_cos(std::numeric_limits<double>::infinity())));
}

TEST(ExactMath, ExpOfManyHasTheBitsOfExp) {
  std::printf("seed 3\n");
  Prng prng(3);
  const double inf = std::numeric_limits<double>::infinity();
  std::vector<double> x{0.0, -0.0, -708.0, -708.0000001, -1e300, -inf, -1e-300, -0.34657359, -0.35};
  for (int i = 0; i < 200'000; ++i)
    x.push_back(-std::ldexp(prng.unit(), static_cast<int>(prng.below(14)) - 3));
  for (std::size_t length : {std::size_t{1}, std::size_t{6}, std::size_t{8}, x.size()}) {
    std::vector<double> out(length);
    exact_exp_each(std::span(x).first(length), out);
    for (std::size_t i = 0; i < length; ++i) {
      const double expected = x[i] < -708 ? 0.0 : exact_exp(x[i]);
      ASSERT_EQ(std::bit_cast<std::uint64_t>(out[i]), std::bit_cast<std::uint64_t>(expected))
          << x[i];
    }
  }
}

TEST(ExactMath, PowAndLogAndExpStayWithinOneUlp) {
  Prng prng(2);
  for (int i = 0; i < 40'000; ++i) {
    const double base = std::exp(prng.range(0.0, 21.0));
    const double exponent = prng.range(-1.0, 1.0);
    ASSERT_LE(ulps64(exact_pow(base, exponent),
                     std::pow(static_cast<long double>(base), static_cast<long double>(exponent))),
              0.51)
        << base << " ^ " << exponent;
    ASSERT_LE(ulps64(exact_log(base), std::log(static_cast<long double>(base))), 0.51) << base;
    const double small = 1.0 + prng.range(-0.5, 0.5) * 1e-3;
    ASSERT_LE(ulps64(exact_log(small), std::log(static_cast<long double>(small))), 0.51) << small;
    const double x = prng.range(-700.0, 700.0);
    ASSERT_LE(ulps64(exact_exp(x), std::exp(static_cast<long double>(x))), 1.0) << x;
  }
  EXPECT_EQ(exact_pow(10000.0, 0.0), 1.0);
  EXPECT_EQ(exact_pow(10000.0, 1.0), 10000.0);
  EXPECT_EQ(exact_pow(10000.0, -0.5), 0.01);
  EXPECT_EQ(exact_exp(0.0), 1.0);
  EXPECT_EQ(exact_log(1.0), 0.0);
  EXPECT_EQ(exact_exp(-800.0), 0.0);
  EXPECT_EQ(exact_exp(710.0), std::numeric_limits<double>::infinity());
  EXPECT_EQ(exact_log(0.0), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(exact_log(-1.0)));
  EXPECT_TRUE(std::isnan(exact_pow(-1.0, 0.5)));
}

TEST(ClassExp, StaysWithinOneUlpOnAStrideOverAllInputs) {
  double worst = 0;
  // A stride that is odd and not a round number meets every exponent and many mantissas.
  for (std::uint64_t bits = 0; bits < (1ull << 32); bits += 4099) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (!(x >= kExpMin && x <= kExpMax)) continue;
    const double u = ulps32(class_exp(x), std::exp(static_cast<long double>(x)));
    worst = std::max(worst, u);
    ASSERT_LE(u, 1.0) << std::hexfloat << x;
  }
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(ClassExp, HasExactBorders) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(class_exp(0.0f), 1.0f);
  EXPECT_EQ(class_exp(-0.0f), 1.0f);
  EXPECT_EQ(kExpMax, 88.72f);
  EXPECT_EQ(kExpMin, -87.33f);
  EXPECT_TRUE(std::isfinite(class_exp(kExpMax)));
  EXPECT_EQ(class_exp(std::nextafter(kExpMax, inf)), inf);
  EXPECT_GE(class_exp(kExpMin), std::numeric_limits<float>::min());
  EXPECT_EQ(class_exp(std::nextafter(kExpMin, -inf)), 0.0f);
  EXPECT_FALSE(std::signbit(class_exp(-inf)));
  EXPECT_EQ(class_exp(inf), inf);
  EXPECT_EQ(class_sigmoid(0.0f), 0.5f);
  EXPECT_EQ(class_silu(0.0f), 0.0f);
  EXPECT_EQ(class_silu(100.0f), 100.0f);
  EXPECT_EQ(class_log(1.0f), 0.0f);
}

}  // namespace
}  // namespace mesh::ops
