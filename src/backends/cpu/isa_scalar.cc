// Kernels of class cpu/1 without intrinsics and without the FMA instruction: fmaf of the C library,
// exact but slow.
#include "backends/cpu/kernels.h"
#include "ops/constants.h"
#include "tensor/quantized.h"

#define MESH_ISA_NAME "scalar"
#define MESH_ISA_LANES "backends/cpu/simd_scalar.inc"
#define MESH_ISA_QUANT32 "backends/cpu/simd_scalar_quant32.inc"

namespace mesh::backends::cpu {
namespace {
namespace scalar_plain {
#include "backends/cpu/kernels.inc"
}  // namespace scalar_plain
}  // namespace

const KernelTable& scalar_plain_kernels() {
  return scalar_plain::kTable;
}

}  // namespace mesh::backends::cpu
