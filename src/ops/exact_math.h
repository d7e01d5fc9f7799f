#pragma once
// Elementary functions with the same bits on every machine: + − × ÷ and exactly rounded fma in a
// fixed order, no libm. Pure; any thread. Constants: ops/constants.h. Definitions:
// docs/numerics.md, class cpu/1.

#include <span>

namespace mesh::ops {

// --- f64, about 1 ulp
// ------------------------------------------------------------------------------------------------
// |x| ≤ 2²³ (a context of 4 Mi positions with room to spare); NaN beyond, and for infinities.
double exact_sin(double x);
double exact_cos(double x);
struct SinCos {
  double sin = 0;
  double cos = 0;
};
SinCos exact_sincos(double x);
// x > 0 and finite; NaN for negative x, -inf for 0.
double exact_log(double x);
// +inf above 709.78, 0 below -745.
double exact_exp(double x);
// out[i] = exact_exp(x[i]) for x[i] in [-708, 0], the same bits; 0 below -708, -inf included. Spans
// of one length; they may be the same memory. Several values at a time: for rows of logits.
void exact_exp_each(std::span<const double> x, std::span<double> out);
// base > 0 and finite (NaN otherwise); any finite exponent. Evaluated in double-double.
double exact_pow(double base, double exponent);

// --- f32, class cpu/1
// ------------------------------------------------------------------------------------------------
// Within 1 ulp; exp(±0) = 1; above 88.72 +inf, below -87.33 +0. Vector kernels repeat these steps
// lane by lane.
float class_exp(float x);
float class_sigmoid(float x);  // 1 / (1 + exp(-x))
float class_silu(float x);     // x · sigmoid(x)
float class_log(float x);      // exact_log rounded to f32: for log-probabilities

}  // namespace mesh::ops
