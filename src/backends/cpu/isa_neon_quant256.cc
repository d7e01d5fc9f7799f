// Products with 256-blocks of class cpu/1 for 64-bit ARM as every processor has it.
#include <arm_neon.h>
#include "backends/cpu/kernels.h"
#include "backends/cpu/quant256.h"
#include "ops/constants.h"

#define MESH_ISA_LANES "backends/cpu/simd_neon.inc"
#define MESH_ISA_QUANT256 "backends/cpu/simd_neon_quant256.inc"
#define MESH_NEON_DOT 0

namespace mesh::backends::cpu {
namespace {
namespace neon_quant256 {
#include "backends/cpu/kernels_types.inc"

#include MESH_ISA_LANES

#include "backends/cpu/kernels_quant256.inc"
}  // namespace neon_quant256
}  // namespace

const QuantKernels& neon_quant256_kernels() {
  return neon_quant256::kQuant256;
}

}  // namespace mesh::backends::cpu
