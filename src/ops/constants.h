#pragma once
// Every constant of numeric class cpu/1, as hex floats: the decimal reader of a compiler plays no
// part. docs/numerics.md.

namespace mesh::ops {

// --- f32 exp: t = x·log2e, n = rint(t), r = x − n·ln2 in two steps, 1 + r + r²·(c2 + c3 r + …),
// times 2ⁿ -------------
inline constexpr float kExpLog2e = 0x1.715476p+0f;
inline constexpr float kExpLn2Hi = 0x1.62e43p-1f;
inline constexpr float kExpLn2Lo = -0x1.05c61p-29f;
inline constexpr float kExpC2 = 0x1p-1f;
inline constexpr float kExpC3 = 0x1.5554dcp-3f;
inline constexpr float kExpC4 = 0x1.555518p-5f;
inline constexpr float kExpC5 = 0x1.120be2p-7f;
inline constexpr float kExpC6 = 0x1.6d117cp-10f;
inline constexpr float kExpMax = 0x1.62e148p+6f;  // 88.72: above it +inf
inline constexpr float kExpMin =
    -0x1.5d51ecp+6f;  // -87.33: below it +0, so that no result is a denormal

// --- f64
// ------------------------------------------------------------------------------------------------------------
// π/2 in three parts of 30 bits and a tail: products with integers below 2²³ are exact.
inline constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
inline constexpr double kPiOver2A = 0x1.921fb548p+0;
inline constexpr double kPiOver2B = -0x1.de973dc8p-31;
inline constexpr double kPiOver2C = -0x1.9d9cceb8p-62;
inline constexpr double kPiOver2D = -0x1.1fc8f8cbb5bf7p-93;
// ln 2 in two parts of 40 bits and a tail.
inline constexpr double kOneOverLn2 = 0x1.71547652b82fep+0;
inline constexpr double kLn2A = 0x1.62e42fefa4p-1;
inline constexpr double kLn2B = -0x1.8432a1b0e2p-43;
inline constexpr double kLn2C = -0x1.8cff81a12a17ep-85;
inline constexpr double kSqrtHalf = 0x1.6a09e667f3bcdp-1;
// Taylor coefficients: sin x = x + x³·(s3 + s5 x² + …), cos x = 1 − x²/2 + x⁴·(c4 + c6 x² + …), |x|
// ≤ π/4.
inline constexpr double kSin[] = {
    -0x1.5555555555555p-3,  0x1.1111111111111p-7,  -0x1.a01a01a01a01ap-13, 0x1.71de3a556c734p-19,
    -0x1.ae64567f544e4p-26, 0x1.6124613a86d09p-33, -0x1.ae7f3e733b81fp-41, 0x1.952c77030ad4ap-49};
inline constexpr double kCos[] = {
    0x1.5555555555555p-5,  -0x1.6c16c16c16c17p-10, 0x1.a01a01a01a01ap-16, -0x1.27e4fb7789f5cp-22,
    0x1.1eed8eff8d898p-29, -0x1.93974a8c07c9dp-37, 0x1.ae7f3e733b81fp-45, -0x1.6827863b97d97p-53};
// 1/n! from n = 2, for exp on |r| ≤ ln2/2.
inline constexpr double kExpF64[] = {0x1p-1,
                                     0x1.5555555555555p-3,
                                     0x1.5555555555555p-5,
                                     0x1.1111111111111p-7,
                                     0x1.6c16c16c16c17p-10,
                                     0x1.a01a01a01a01ap-13,
                                     0x1.a01a01a01a01ap-16,
                                     0x1.71de3a556c734p-19,
                                     0x1.27e4fb7789f5cp-22,
                                     0x1.ae64567f544e4p-26,
                                     0x1.1eed8eff8d898p-29,
                                     0x1.6124613a86d09p-33,
                                     0x1.93974a8c07c9dp-37};

}  // namespace mesh::ops
