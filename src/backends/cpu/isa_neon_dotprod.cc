// Kernels of class cpu/1 for 64-bit ARM with dot products of bytes. This file alone is
// compiled with these instructions (CMakeLists.txt).
#include <arm_neon.h>
#include "backends/cpu/kernels.h"
#include "ops/constants.h"
#include "tensor/quantized.h"

#define MESH_ISA_NAME "neon_dotprod"
#define MESH_ISA_LANES "backends/cpu/simd_neon.inc"
#define MESH_ISA_QUANT32 "backends/cpu/simd_neon_quant32.inc"
#define MESH_NEON_DOT 1

namespace mesh::backends::cpu {
namespace {
namespace neon_dotprod {
#include "backends/cpu/kernels.inc"
}  // namespace neon_dotprod
}  // namespace

const KernelTable& neon_dotprod_kernels() {
  return neon_dotprod::kTable;
}

}  // namespace mesh::backends::cpu
