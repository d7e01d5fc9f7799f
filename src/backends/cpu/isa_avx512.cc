// Kernels of class cpu/1 for AVX-512 F, BW, DQ, VL. This file alone is compiled with these
// instructions (CMakeLists.txt).
#include <immintrin.h>
#include "backends/cpu/kernels.h"
#include "ops/constants.h"
#include "tensor/quantized.h"

#define MESH_ISA_NAME "avx512"
#define MESH_ISA_LANES "backends/cpu/simd_avx512.inc"
#define MESH_ISA_QUANT32 "backends/cpu/simd_avx512_quant32.inc"

namespace mesh::backends::cpu {
namespace {
namespace avx512 {
#include "backends/cpu/kernels.inc"
}  // namespace avx512
}  // namespace

const KernelTable& avx512_kernels() {
  return avx512::kTable;
}

}  // namespace mesh::backends::cpu
