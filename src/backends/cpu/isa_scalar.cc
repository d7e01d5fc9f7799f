// Kernels of class cpu/1 without intrinsics and without the FMA instruction: fmaf of the C library,
// exact but slow.
#include "backends/cpu/kernels.h"
#include "ops/constants.h"

#define MESH_ISA_NAME "scalar"

namespace mesh::backends::cpu {
namespace {
namespace scalar_plain {
// clang-format off: the order matters
#include "backends/cpu/kernels_types.inc"
#include "backends/cpu/simd_scalar.inc"
#include "backends/cpu/kernels_linear.inc"
#include "backends/cpu/kernels_rows.inc"
#include "backends/cpu/kernels_attention.inc"
#include "backends/cpu/kernels_table.inc"
// clang-format on
}  // namespace scalar_plain
}  // namespace

const KernelTable& scalar_plain_kernels() {
  return scalar_plain::kTable;
}

}  // namespace mesh::backends::cpu
