// Kernels of class cpu/1 without intrinsics, for processors with the FMA instruction.
#include "backends/cpu/kernels.h"
#include "ops/constants.h"
#include "tensor/quantized.h"

#define MESH_ISA_NAME "scalar"
#define MESH_ISA_LANES "backends/cpu/simd_scalar.inc"
#define MESH_ISA_QUANT32 "backends/cpu/simd_scalar_quant32.inc"

namespace mesh::backends::cpu {
namespace {
namespace scalar_fma {
#include "backends/cpu/kernels.inc"
}  // namespace scalar_fma
}  // namespace

const KernelTable& scalar_fma_kernels() {
  return scalar_fma::kTable;
}

}  // namespace mesh::backends::cpu
