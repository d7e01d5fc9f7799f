#pragma once
// Attention over the paged cache: prepares heads, writes K and V, walks the segments, joins them.

#include "backends/cpu/step.h"

namespace mesh::backends::cpu {

// See ops::Step::attention. Bits do not depend on the split into units: a unit owns rows, heads or
// segments only.
ops::Tensor run_attention(CpuStep& step, const ops::AttentionSpec& spec, const ops::Tensor& qkv);

}  // namespace mesh::backends::cpu
