#pragma once
// Quantised products: the interface between the dispatcher, the packers and the kernels of each
// instruction set. Plain data and declarations only, like kernels.h, since isa_*.cc includes it.
// Definition of the numbers: docs/numerics.md, "Products".
//
// Weights lie in groups of 16 outputs. A vector lane (32 bits) is one output and 4 bytes of k;
// blocks of k follow one another, each with its 16 scales in front of its quants, so that a thread
// that owns a group reads one sequential stream. Nothing is expanded: a group has the bits per
// weight of the file. The layout of a type is the same for every instruction set unless its packer
// says otherwise.

#include <cstddef>
#include <cstdint>

namespace mesh::backends::cpu {

enum QuantType : int {
  kQuantQ4_0 = 0,
  kQuantQ4_1,
  kQuantQ5_0,
  kQuantQ5_1,
  kQuantQ8_0,
  kQuantIQ4_NL,
  kQuantMXFP4,
  kQuant32Types,  // those above have blocks of 32 k, those below of 256 k
  kQuantQ2_K = kQuant32Types,
  kQuantQ3_K,
  kQuantQ4_K,
  kQuantQ5_K,
  kQuantQ6_K,
  kQuantIQ4_XS,
  kQuantTypes
};
constexpr bool is_256(int type) {
  return type >= kQuant32Types;
}

// Rows of a tile of quantised activations when there is more than one row; a single row is a tile
// of one. Rows that pad the last tile repeat nothing: their q and d are zero.
inline constexpr int kActRows = 4;

// 32 columns of T rows: q = rne(x·(127/a)), d = a/127 with a = max|x| of the row's 32 columns; a
// below 2^-100 counts as 0. When a is not finite, d is NaN, and so are the products.
template <int T>
struct Act32 {
  std::int8_t q[T][32];
  float d[T];
  std::int32_t sum8[T];    // −8·Σq: start value for weights stored with an offset of 8
  std::int32_t sum128[T];  // −128·Σq
  float sum[T];            // Σq
};

// 256 columns of T rows, one scale for all of them.
template <int T>
struct Act256 {
  std::int8_t q[T][256];
  float d[T];
  std::int32_t sum16[T][16];  // Σq of 16 columns each
  std::int16_t pair32[T][8];  // Σq of 32 columns each, in the order 0 2 1 3 4 6 5 7
};

// One group of 16 outputs, or several that lie group_bytes apart, against all rows. y[row, out] =
// Σ over blocks in ascending order, + bias.
struct QuantArgs {
  const std::byte* w = nullptr;  // first block of the first group, 64-byte aligned
  std::size_t group_bytes = 0;   // from one group to the next, a multiple of 64
  int groups = 0;                // groups to do
  int outs = 0;                  // outputs of these groups that exist, ≤ groups·16
  std::int64_t in = 0;           // columns, a multiple of the block length
  const void* x = nullptr;       // tiles [ceil(rows / T)][blocks] of Act32<T> or Act256<T>
  int rows = 0;
  float* y = nullptr;  // first output of the first group, row stride ldy
  std::int64_t ldy = 0;
  const float* bias = nullptr;  // [outs] or null
};

// The quantised part of an instruction set's table; MESH_CPU isa files fill it.
struct QuantKernels {
  // The packer's isa_signed for this instruction set.
  bool isa_signed = false;
  // Quantises rows of x [rows, in] (row stride ldx) to tiles of `tile` rows: 1 or kActRows.
  void (*quantize32)(const float* x, std::int64_t ldx, int rows, std::int64_t in, int tile,
                     void* tiles) = nullptr;
  void (*quantize256)(const float* x, std::int64_t ldx, int rows, std::int64_t in, int tile,
                      void* tiles) = nullptr;
  void (*one[kQuantTypes])(const QuantArgs&) = {};   // 1 row, tiles of 1
  void (*rows[kQuantTypes])(const QuantArgs&) = {};  // 2 and more rows, tiles of kActRows
};

// Order of the sums of 32 columns in Act256::pair32.
inline constexpr int kPairOrder[8] = {0, 2, 1, 3, 4, 6, 5, 7};

// Layout of a group of 32-blocks. Units follow one another; a unit is a line of 64 bytes with
// scales, then quants. Types with a minimum: one block a unit, 16 scales and 16 minimums as f16.
// Others: two blocks a unit, 16 scales of the first and 16 of the second (f16; bf16 for MXFP4,
// already halved), the last unit of an odd row has one block. Quants of a block: lines of nibbles
// (low: k 4j to 4j+3 of line j in [0, 4), high: k 16+4j on), then for five bits a line whose bit j
// belongs to the bytes of k 4j to 4j+3; or, for Q8_0, 8 lines of bytes.
struct Layout32 {
  bool minimum, five, bytes;
  int quant_bytes;  // of a block
  int blocks;       // of a unit
  int unit_bytes;
};
inline constexpr Layout32 kLayout32[kQuant32Types] = {
    {false, false, false, 256, 2, 576},  // Q4_0
    {true, false, false, 256, 1, 320},   // Q4_1
    {false, true, false, 320, 2, 704},   // Q5_0
    {true, true, false, 320, 1, 384},    // Q5_1
    {false, false, true, 512, 2, 1088},  // Q8_0
    {false, false, false, 256, 2, 576},  // IQ4_NL
    {false, false, false, 256, 2, 576},  // MXFP4
};

// Bytes of one group of 16 outputs with `in` columns, a multiple of 64.
std::size_t quant_group_bytes(int type, std::int64_t in);

// Writes the group whose 16 outputs are the given rows of source blocks (tensor/quantized.h); a
// null row is an output that pads the group and becomes zeros. `isa_signed`: the instruction set
// multiplies signed bytes (no VNNI), so that Q8_0 keeps its sign instead of an offset of 128.
void quant_pack_group(int type, const std::byte* const rows[16], std::int64_t in, bool isa_signed,
                      std::byte* group);

// The source blocks of one output of a group, as they were packed.
void quant_unpack_row(int type, const std::byte* group, int output, std::int64_t in,
                      bool isa_signed, std::byte* blocks);

}  // namespace mesh::backends::cpu
