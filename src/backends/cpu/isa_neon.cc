// Kernels of class cpu/1 for 64-bit ARM as every processor has it.
#include <arm_neon.h>
#include "backends/cpu/kernels.h"
#include "ops/constants.h"
#include "tensor/quantized.h"

#define MESH_ISA_NAME "neon"
#define MESH_ISA_LANES "backends/cpu/simd_neon.inc"
#define MESH_ISA_QUANT32 "backends/cpu/simd_neon_quant32.inc"
#define MESH_NEON_DOT 0

namespace mesh::backends::cpu {
namespace {
namespace neon {
#include "backends/cpu/kernels.inc"
}  // namespace neon
}  // namespace

const KernelTable& neon_kernels() {
  return neon::kTable;
}

}  // namespace mesh::backends::cpu
