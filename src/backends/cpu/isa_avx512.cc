// Kernels of class cpu/1 for AVX-512 F, BW, DQ, VL. This file alone is compiled with these
// instructions (CMakeLists.txt).
#include <immintrin.h>
#include "backends/cpu/kernels.h"
#include "ops/constants.h"

#define MESH_ISA_NAME "avx512"

namespace mesh::backends::cpu {
namespace {
namespace avx512 {
// clang-format off: the order matters
#include "backends/cpu/kernels_types.inc"
#include "backends/cpu/simd_avx512.inc"
#include "backends/cpu/kernels_linear.inc"
#include "backends/cpu/kernels_rows.inc"
#include "backends/cpu/kernels_attention.inc"
#include "backends/cpu/kernels_table.inc"
// clang-format on
}  // namespace avx512
}  // namespace

const KernelTable& avx512_kernels() {
  return avx512::kTable;
}

}  // namespace mesh::backends::cpu
