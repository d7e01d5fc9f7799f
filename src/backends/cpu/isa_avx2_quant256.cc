// Products with 256-blocks of class cpu/1 for AVX2, FMA and F16C. This file alone is compiled with
// these instructions (CMakeLists.txt).
#include <immintrin.h>
#include "backends/cpu/kernels.h"
#include "backends/cpu/quant256.h"
#include "ops/constants.h"

#define MESH_ISA_LANES "backends/cpu/simd_avx2.inc"
#define MESH_ISA_QUANT256 "backends/cpu/simd_avx2_quant256.inc"

namespace mesh::backends::cpu {
namespace {
namespace avx2_quant256 {
#include "backends/cpu/kernels_types.inc"

#include MESH_ISA_LANES

#include "backends/cpu/kernels_quant256.inc"
}  // namespace avx2_quant256
}  // namespace

const QuantKernels& avx2_quant256_kernels() {
  return avx2_quant256::kQuant256;
}

}  // namespace mesh::backends::cpu
