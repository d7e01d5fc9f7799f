// Products with 256-blocks of class cpu/1 without intrinsics and without the FMA instruction.
#include "backends/cpu/kernels.h"
#include "backends/cpu/quant256.h"
#include "ops/constants.h"

#define MESH_ISA_LANES "backends/cpu/simd_scalar.inc"
#define MESH_ISA_QUANT256 "backends/cpu/simd_scalar_quant256.inc"

namespace mesh::backends::cpu {
namespace {
namespace scalar_plain_quant256 {
#include "backends/cpu/kernels_types.inc"

#include MESH_ISA_LANES

#include "backends/cpu/kernels_quant256.inc"
}  // namespace scalar_plain_quant256
}  // namespace

const QuantKernels& scalar_plain_quant256_kernels() {
  return scalar_plain_quant256::kQuant256;
}

}  // namespace mesh::backends::cpu
