#pragma once
// Weights in blocks of 256 k (Q2_K to Q6_K, IQ4_XS): the layout of a group that packer and kernels
// agree on, and the kernels of each instruction set. Plain data and declarations only, since files
// compiled with instruction-set flags include this header.
//
// A group holds its blocks in ascending order. A block is a head of one line (64 bytes) and a body
// of lines. The body is the source block cut into dwords, each dword a line of 16 outputs; nothing
// is expanded, so the group has the bits per weight of the file. Lines lie in the order in which a
// kernel first needs them. The head has d of the 16 outputs
// as f16, then the 16-bit value that stands beside d in the source (dmin, or the high scale bits of
// IQ4_XS). Types without such a value share one head between two blocks:
// head, body, body, head, body, body, ….

#include <cstddef>
#include <cstdint>

#include "backends/cpu/quant.h"

namespace mesh::backends::cpu {

struct Layout256 {
  int lines;    // of a body
  bool paired;  // one head for two blocks
};
// By type - kQuantQ2_K.
inline constexpr Layout256 kLayout256[kQuantTypes - kQuantQ2_K] = {
    {20, false},  // Q2_K: 4 of scales and minimums, 16 of quants
    {27, true},   // Q3_K: 3 of scales, 24 of high bits and quants
    {35, false},  // Q4_K: 3 of scales and minimums, 32 of quants
    {43, false},  // Q5_K: 3 of scales and minimums, 8 of high bits, 32 of quants
    {52, true},   // Q6_K: 4 of scales, four times 4 of high bits, 8 of low ones
    {33, false},  // IQ4_XS: 1 of low scale nibbles, 32 of quants
};

// Kernels of one instruction set; only `one` and `rows` of the types of this page are filled.
const QuantKernels& scalar_plain_quant256_kernels();
#ifdef MESH_CPU_X86
const QuantKernels& scalar_fma_quant256_kernels();
const QuantKernels& avx2_quant256_kernels();
const QuantKernels& avx512_quant256_kernels();  // needs AVX-512 VNNI as well
#endif
#ifdef MESH_CPU_ARM
const QuantKernels& neon_quant256_kernels();
const QuantKernels& neon_dotprod_quant256_kernels();
#endif

}  // namespace mesh::backends::cpu
