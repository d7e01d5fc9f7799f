// Kernels of class cpu/1 for AVX2, FMA and F16C. This file alone is compiled with these
// instructions (CMakeLists.txt).
#include <immintrin.h>
#include "backends/cpu/kernels.h"
#include "ops/constants.h"

#define MESH_ISA_NAME "avx2"

namespace mesh::backends::cpu {
namespace {
namespace avx2 {
// clang-format off: the order matters
#include "backends/cpu/kernels_types.inc"
#include "backends/cpu/simd_avx2.inc"
#include "backends/cpu/kernels_linear.inc"
#include "backends/cpu/kernels_rows.inc"
#include "backends/cpu/kernels_attention.inc"
#include "backends/cpu/kernels_table.inc"
// clang-format on
}  // namespace avx2
}  // namespace

const KernelTable& avx2_kernels() {
  return avx2::kTable;
}

}  // namespace mesh::backends::cpu
