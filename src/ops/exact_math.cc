#include "ops/exact_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "ops/constants.h"

namespace mesh::ops {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// Round to nearest even for |x| < 2⁵¹, by the addition that leaves no fraction bits.
double round_even(double x) {
  constexpr double kMagic = 0x1.8p+52;
  return (x + kMagic) - kMagic;
}

double power_of_two(int n) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(n + 1023) << 52);
}

// x · 2ⁿ in two factors, so that results reach the denormals and the largest exponents.
double scale(double x, int n) {
  const int half = n / 2;
  return x * power_of_two(half) * power_of_two(n - half);
}

// An unevaluated sum hi + lo with |lo| ≤ ulp(hi)/2 (Dekker 1971).
struct Pair {
  double hi = 0;
  double lo = 0;
};

Pair two_sum(double a, double b) {
  const double s = a + b;
  const double t = s - a;
  return {s, (a - (s - t)) + (b - t)};
}

Pair fast_two_sum(double a, double b) {
  const double s = a + b;
  return {s, b - (s - a)};
}

// Veltkamp's split instead of fma: one path for machines with and without the instruction.
Pair two_product(double a, double b) {
  constexpr double kSplit = 0x1p+27 + 1;
  const double ta = kSplit * a, tb = kSplit * b;
  const double ah = ta - (ta - a), bh = tb - (tb - b);
  const double al = a - ah, bl = b - bh;
  const double p = a * b;
  return {p, ((ah * bh - p) + ah * bl + al * bh) + al * bl};
}

Pair add(Pair a, Pair b) {
  Pair s = two_sum(a.hi, b.hi);
  const Pair t = two_sum(a.lo, b.lo);
  s = fast_two_sum(s.hi, s.lo + t.hi);
  return fast_two_sum(s.hi, s.lo + t.lo);
}

Pair multiply(Pair a, Pair b) {
  const Pair p = two_product(a.hi, b.hi);
  return fast_two_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}

Pair divide(Pair a, Pair b) {
  const double q1 = a.hi / b.hi;
  const Pair p1 = multiply({q1, 0}, b);
  const Pair r = add(a, {-p1.hi, -p1.lo});
  const double q2 = r.hi / b.hi;
  const Pair p2 = multiply({q2, 0}, b);
  const Pair r2 = add(r, {-p2.hi, -p2.lo});
  return add(fast_two_sum(q1, q2), {r2.hi / b.hi, 0});
}

// log x = e·ln2 + 2·atanh(s), s = (m − 1)/(m + 1), m in [√½, √2). |s| < 0.172: 20 terms leave less
// than 2⁻¹⁰⁰.
Pair log_pair(double x) {
  int e = 0;
  if (x < 0x1p-1022) {
    x *= 0x1p+54;
    e = -54;
  }
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  e += static_cast<int>(bits >> 52) - 1022;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFull) | 0x3FE0000000000000ull);
  if (m < kSqrtHalf) {
    m *= 2;
    e -= 1;
  }
  const Pair s = divide({m - 1.0, 0}, two_sum(m, 1.0));
  const Pair s2 = multiply(s, s);
  Pair sum{0, 0};
  for (int n = 20; n >= 0; --n)
    sum = add(multiply(sum, s2), divide({1.0, 0}, {static_cast<double>(2 * n + 1), 0}));
  sum = multiply(sum, s);
  sum = {2 * sum.hi, 2 * sum.lo};
  const double k = e;
  const Pair ln2 = add(add({k * kLn2A, 0}, {k * kLn2B, 0}), {k * kLn2C, 0});
  return add(ln2, sum);
}

// exp(x) for |x| < 700; Horner of the Taylor series in pairs, |r| ≤ ln2/2.
double exp_pair(Pair x) {
  const double n = round_even(x.hi * kOneOverLn2);
  Pair r = add(x, {-n * kLn2A, 0});
  r = add(r, {-n * kLn2B, 0});
  r = add(r, {-n * kLn2C, 0});
  Pair p{1, 0};
  for (int i = 20; i >= 1; --i)
    p = add({1, 0}, divide(multiply(p, r), {static_cast<double>(i), 0}));
  return scale(p.hi, static_cast<int>(n));
}

double poly(const double* c, int count, double x) {
  double p = c[count - 1];
  for (int i = count - 2; i >= 0; --i) p = p * x + c[i];
  return p;
}

// Vectors of GCC and Clang: each lane does what a scalar does, whatever the machine has.
constexpr std::size_t kLanes = 4;
using Lanes __attribute__((vector_size(kLanes * sizeof(double)))) = double;
using LaneBits __attribute__((vector_size(kLanes * sizeof(double)))) = std::int64_t;

// The steps of exact_exp() for results that are normal numbers, so that 2ⁿ is one factor.
__attribute__((always_inline)) inline void exp_lanes(const double* in, double* out) {
  constexpr double kMagic = 0x1.8p+52;
  constexpr double kMin = -708;
  Lanes given;
  std::memcpy(&given, in, sizeof(given));
  const LaneBits kept = given >= kMin;
  const Lanes x = reinterpret_cast<Lanes>(reinterpret_cast<LaneBits>(given) & kept);
  const Lanes shifted = x * kOneOverLn2 + kMagic;
  const Lanes n = shifted - kMagic;
  // a = two_sum(x − n·A, −n·B), r = fast_two_sum(a.hi, a.lo − n·C)
  const Lanes u = x - n * kLn2A, v = -n * kLn2B;
  const Lanes a_hi = u + v, t = a_hi - u;
  const Lanes a_lo = (u - (a_hi - t)) + (v - t);
  const Lanes w = a_lo - n * kLn2C;
  const Lanes r_hi = a_hi + w, r_lo = w - (r_hi - a_hi);
  Lanes p = r_hi * 0 + kExpF64[12];
  for (int i = 11; i >= 0; --i) p = p * r_hi + kExpF64[i];
  const Lanes q = r_hi * r_hi * p + r_lo + r_lo * r_hi;
  // sum = two_sum(1, r.hi)
  const Lanes s_hi = 1.0 + r_hi, s_t = s_hi - 1.0;
  const Lanes s_lo = (1.0 - (s_hi - s_t)) + (r_hi - s_t);
  const LaneBits exponent =
      (reinterpret_cast<LaneBits>(shifted) - std::bit_cast<std::int64_t>(kMagic) + 1023) << 52;
  const Lanes y = (s_hi + (s_lo + q)) * reinterpret_cast<Lanes>(exponent);
  const LaneBits bits = reinterpret_cast<LaneBits>(y) & kept;
  std::memcpy(out, &bits, sizeof(bits));
}

__attribute__((always_inline)) inline void exp_all(const double* x, double* out,
                                                   std::size_t count) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) exp_lanes(x + i, out + i);
  if (i == count) return;
  double rest[kLanes] = {};
  std::copy(x + i, x + count, rest);
  exp_lanes(rest, rest);
  std::copy(rest, rest + (count - i), out + i);
}

#if defined(__x86_64__)
// Wider registers for the same operations: avx2 brings no fma along.
__attribute__((target("avx2"))) void exp_all_avx2(const double* x, double* out, std::size_t count) {
  exp_all(x, out, count);
}
#endif

}  // namespace

SinCos exact_sincos(double x) {
  if (!(x >= -0x1p+23 && x <= 0x1p+23)) return {kNan, kNan};
  const double k = round_even(x * kTwoOverPi);
  // The first difference is exact (its terms lie close together), the products of A, B, C too.
  Pair r = two_sum(x - k * kPiOver2A, -k * kPiOver2B);
  r = add(r, {-k * kPiOver2C, 0});
  r = add(r, {-k * kPiOver2D, 0});
  const double h = r.hi, z = h * h;
  // sin(h + l) = sin h + l·cos h; cos(h + l) = cos h − l·sin h. The tail l needs only its leading
  // terms.
  const double s = h + (h * z * poly(kSin, 8, z) + r.lo * (1.0 - 0.5 * z));
  const Pair square = two_product(h, h);
  const double half = 0.5 * square.hi;
  const double w = 1.0 - half;
  const double c =
      w + (((1.0 - w) - half) + (z * z * poly(kCos, 8, z) - h * r.lo - 0.5 * square.lo));
  switch (static_cast<std::int64_t>(k) & 3) {
    case 0:
      return {x == 0 ? x : s, c};
    case 1:
      return {c, -s};
    case 2:
      return {-s, -c};
    default:
      return {-c, s};
  }
}

double exact_sin(double x) {
  return exact_sincos(x).sin;
}
double exact_cos(double x) {
  return exact_sincos(x).cos;
}

double exact_log(double x) {
  if (x == 0) return -kInf;
  if (!(x > 0)) return kNan;
  if (x == kInf) return kInf;
  return log_pair(x).hi;
}

double exact_exp(double x) {
  if (x != x) return kNan;
  if (x > 0x1.62e42fefa39efp+9) return kInf;
  if (x < -745.25) return 0;
  const double n = round_even(x * kOneOverLn2);
  const Pair a = two_sum(x - n * kLn2A, -n * kLn2B);
  const Pair r = fast_two_sum(a.hi, a.lo - n * kLn2C);
  const double q = r.hi * r.hi * poly(kExpF64, 13, r.hi) + r.lo + r.lo * r.hi;
  const Pair sum = two_sum(1.0, r.hi);
  return scale(sum.hi + (sum.lo + q), static_cast<int>(n));
}

void exact_exp_each(std::span<const double> x, std::span<double> out) {
#if defined(__x86_64__)
  static const bool kWide = __builtin_cpu_supports("avx2") != 0;
  if (kWide) return exp_all_avx2(x.data(), out.data(), x.size());
#endif
  exp_all(x.data(), out.data(), x.size());
}

double exact_pow(double base, double exponent) {
  if (exponent == 0 || base == 1) return 1;
  if (!(base > 0) || base == kInf || exponent - exponent != 0) return kNan;
  const Pair y = multiply(log_pair(base), {exponent, 0});
  if (y.hi > 709.79) return kInf;
  if (y.hi < -745.25) return 0;
  return exp_pair(y);
}

float class_exp(float x) {
  if (x > kExpMax) return std::numeric_limits<float>::infinity();
  if (x < kExpMin) return 0.0f;
  constexpr float kMagic = 0x1.8p+23f;
  const float t = x * kExpLog2e;
  const float n = (t + kMagic) - kMagic;
  float r = std::fma(n, -kExpLn2Hi, x);
  r = std::fma(n, -kExpLn2Lo, r);
  float p = std::fma(kExpC6, r, kExpC5);
  p = std::fma(p, r, kExpC4);
  p = std::fma(p, r, kExpC3);
  p = std::fma(p, r, kExpC2);
  p = std::fma(p, r, 1.0f);
  p = std::fma(p, r, 1.0f);
  // p lies in [0.70, 1.42] and the result is a normal number: adding n to the exponent is the exact
  // product.
  const std::uint32_t shift = static_cast<std::uint32_t>(static_cast<std::int32_t>(n)) << 23;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(p) + shift);
}

float class_sigmoid(float x) {
  return 1.0f / (1.0f + class_exp(-x));
}
float class_silu(float x) {
  return x * class_sigmoid(x);
}
float class_log(float x) {
  return static_cast<float>(exact_log(static_cast<double>(x)));
}

}  // namespace mesh::ops
