#pragma once
// Blocks of quantised values: what their bytes mean. Exact: every value is one f32 rounding of the
// real number at most, the same on every machine. Pure; any thread.
// Source: ggml, ggml-common.h (block layouts) and ggml-quants.c (dequantize_row_*); OCP
// Microscaling Formats 1.0 (MXFP4).

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace mesh::tensor {

// Values of the nibbles of IQ4_NL and IQ4_XS, and twice the values of those of MXFP4 (E2M1).
inline constexpr std::int8_t kNonlinear4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                1,    13,   25,  38,  53,  69,  89,  113};
inline constexpr std::int8_t kTwiceE2M1[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                               0, -1, -2, -3, -4, -6, -8, -12};

// Where a block keeps its f16 scale and minimum: offsets of their first bytes, -1 where there is
// none (the scale of MXFP4 is an exponent byte at 0).
struct BlockScales {
  DType dtype;
  int scale, min;
};
// One line for each quantised type: those with blocks of 32, then those of 256.
std::span<const BlockScales> block_scales();

// Scale and minimum of sub-block j in [0, 8) of Q4_K and Q5_K, six bits each, from 12 bytes.
struct ScaleMin {
  std::uint8_t scale = 0;
  std::uint8_t min = 0;
};
ScaleMin scale_min(const std::uint8_t* packed, int j);
// Scale of sub-block j in [0, 16) of Q3_K before 32 is subtracted, six bits, from 12 bytes.
std::uint8_t scale_q3(const std::uint8_t* packed, int j);
// 2^(e-127) for the exponent byte of MXFP4; 255, which the standard calls NaN, is 2^128 here as in
// ggml and becomes infinite in f32.
float e8m0_to_f32(std::uint8_t e);

// `count` values from whole blocks: count is a multiple of block_elements(dtype). f32, f16 and bf16
// are widened. Other types are our own bug.
void dequantize(DType dtype, const std::byte* blocks, std::int64_t count, float* out);

}  // namespace mesh::tensor
