// Kernels of class cpu/1 for AVX2, FMA and F16C. This file alone is compiled with these
// instructions (CMakeLists.txt).
#include <immintrin.h>
#include "backends/cpu/kernels.h"
#include "ops/constants.h"
#include "tensor/quantized.h"

#define MESH_ISA_NAME "avx2"
#define MESH_ISA_LANES "backends/cpu/simd_avx2.inc"
#define MESH_ISA_QUANT32 "backends/cpu/simd_avx2_quant32.inc"

namespace mesh::backends::cpu {
namespace {
namespace avx2 {
#include "backends/cpu/kernels.inc"
}  // namespace avx2
}  // namespace

const KernelTable& avx2_kernels() {
  return avx2::kTable;
}

}  // namespace mesh::backends::cpu
