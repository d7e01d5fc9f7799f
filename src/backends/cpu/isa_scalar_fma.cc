// Kernels of class cpu/1 without intrinsics, for processors with the FMA instruction.
#include "backends/cpu/kernels.h"
#include "ops/constants.h"

#define MESH_ISA_NAME "scalar"

namespace mesh::backends::cpu {
namespace {
namespace scalar_fma {
// clang-format off: the order matters
#include "backends/cpu/kernels_types.inc"
#include "backends/cpu/simd_scalar.inc"
#include "backends/cpu/kernels_linear.inc"
#include "backends/cpu/kernels_rows.inc"
#include "backends/cpu/kernels_attention.inc"
#include "backends/cpu/kernels_table.inc"
// clang-format on
}  // namespace scalar_fma
}  // namespace

const KernelTable& scalar_fma_kernels() {
  return scalar_fma::kTable;
}

}  // namespace mesh::backends::cpu
