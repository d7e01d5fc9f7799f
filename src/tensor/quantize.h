#pragma once
// Rounding of f32 rows to blocks, for --quantize and for generated models. Pure; any thread.

#include <cstddef>
#include <cstdint>

#include "tensor/dtype.h"

namespace mesh::tensor {

// Types that quantize() writes: Q8_0 and Q4_0.
bool can_quantize(DType dtype);

// `count` finite values, a multiple of 32, to blocks of `dtype`: the block's largest magnitude sets
// the scale, values are rounded to nearest. Source: ggml, quantize_row_q8_0_ref and _q4_0_ref.
void quantize(DType dtype, const float* values, std::int64_t count, std::byte* blocks);

}  // namespace mesh::tensor
