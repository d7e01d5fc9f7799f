#include <algorithm>
#include <array>
#include <cstring>

#include "backends/cpu/quant.h"
#include "backends/cpu/quant_pack256.h"
#include "base/check.h"
#include "tensor/dtype.h"
#include "tensor/quantized.h"

namespace mesh::backends::cpu {
namespace {

constexpr int kOutputs = 16;
constexpr std::uint32_t kFlip = 0x80808080u;  // adds 128 to each of four bytes

std::uint32_t word_at(const std::byte* p) {
  std::uint32_t word = 0;
  std::memcpy(&word, p, sizeof(word));
  return word;
}
void put_word(std::byte* p, std::uint32_t word) {
  std::memcpy(p, &word, sizeof(word));
}

// Bit i of a nibble at bit 0 of byte i.
constexpr std::array<std::uint32_t, 16> kSpread = [] {
  std::array<std::uint32_t, 16> spread{};
  for (std::uint32_t nibble = 0; nibble < 16; ++nibble)
    for (std::uint32_t i = 0; i < 4; ++i) spread[nibble] |= ((nibble >> i) & 1u) << (8 * i);
  return spread;
}();

// Bit 4j + i of the fifth bits of a block becomes bit j of byte i.
std::uint32_t interleave_bits(std::uint32_t bits) {
  std::uint32_t word = 0;
  for (unsigned j = 0; j < 8; ++j) word |= kSpread[(bits >> (4 * j)) & 15u] << j;
  return word;
}
std::uint32_t deinterleave_bits(std::uint32_t word) {
  std::uint32_t bits = 0;
  for (unsigned j = 0; j < 8; ++j)
    for (unsigned i = 0; i < 4; ++i) bits |= ((word >> (8 * i + j)) & 1u) << (4 * j + i);
  return bits;
}

// Bytes of a source block: scale (and minimum), fifth bits, quants.
struct Source32 {
  int bytes, scales, quants;
};
constexpr Source32 kSources[kQuant32Types] = {
    {18, 2, 2},  // Q4_0
    {20, 4, 4},  // Q4_1
    {22, 2, 6},  // Q5_0
    {24, 4, 8},  // Q5_1
    {34, 2, 2},  // Q8_0
    {18, 2, 2},  // IQ4_NL
    {17, 1, 1},  // MXFP4
};

// Where a block lies in its group.
struct Place32 {
  std::size_t scales, quants;
};
Place32 place_of(const Layout32& layout, std::int64_t block) {
  const auto unit = static_cast<std::size_t>(block / layout.blocks * layout.unit_bytes);
  const auto half = static_cast<std::size_t>(block % layout.blocks);
  return {unit + 32 * half, unit + 64 + half * static_cast<std::size_t>(layout.quant_bytes)};
}

// The exponent byte of MXFP4 as the bf16 of its scale, halved since the table holds doubled values.
std::uint16_t scale_of_exponent(std::byte exponent) {
  return tensor::f32_to_bf16(tensor::e8m0_to_f32(static_cast<std::uint8_t>(exponent)) * 0.5f);
}
std::byte exponent_of_scale(std::uint16_t scale) {
  // 2^-128 and 2^-127 are denormal.
  if (scale < 0x80) return static_cast<std::byte>(scale >> 6);
  return static_cast<std::byte>(std::min((scale >> 7) + 1, 255));
}

template <int kType>
void pack32(const std::byte* const rows[16], std::int64_t in, bool isa_signed, std::byte* group) {
  constexpr Layout32 kLayout = kLayout32[kType];
  constexpr Source32 kSource = kSources[kType];
  const std::uint32_t flip = isa_signed ? 0 : kFlip;
  for (std::int64_t block = 0; block < in / 32; ++block) {
    const Place32 place = place_of(kLayout, block);
    for (int output = 0; output < kOutputs; ++output) {
      if (rows[output] == nullptr) continue;
      const std::byte* from = rows[output] + block * kSource.bytes;
      std::byte* scale = group + place.scales + 2 * output;
      std::byte* to = group + place.quants + 4 * output;
      if constexpr (kType == kQuantMXFP4) {
        const std::uint16_t bits = scale_of_exponent(from[0]);
        std::memcpy(scale, &bits, sizeof(bits));
      } else {
        std::memcpy(scale, from, 2);
      }
      if constexpr (kLayout.minimum) std::memcpy(scale + 32, from + 2, 2);
      if constexpr (kLayout.five)
        put_word(to + 256, interleave_bits(word_at(from + kSource.scales)));
      for (int j = 0; j < (kLayout.bytes ? 8 : 4); ++j) {
        const std::uint32_t word = word_at(from + kSource.quants + 4 * j);
        put_word(to + 64 * j, kLayout.bytes ? word ^ flip : word);
      }
    }
  }
}

template <int kType>
void unpack32(const std::byte* group, int output, std::int64_t in, bool isa_signed, std::byte* to) {
  constexpr Layout32 kLayout = kLayout32[kType];
  constexpr Source32 kSource = kSources[kType];
  const std::uint32_t flip = isa_signed ? 0 : kFlip;
  for (std::int64_t block = 0; block < in / 32; ++block, to += kSource.bytes) {
    const Place32 place = place_of(kLayout, block);
    const std::byte* scale = group + place.scales + 2 * output;
    const std::byte* from = group + place.quants + 4 * output;
    if constexpr (kType == kQuantMXFP4) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, scale, sizeof(bits));
      to[0] = exponent_of_scale(bits);
    } else {
      std::memcpy(to, scale, 2);
    }
    if constexpr (kLayout.minimum) std::memcpy(to + 2, scale + 32, 2);
    if constexpr (kLayout.five)
      put_word(to + kSource.scales, deinterleave_bits(word_at(from + 256)));
    for (int j = 0; j < (kLayout.bytes ? 8 : 4); ++j) {
      const std::uint32_t word = word_at(from + 64 * j);
      put_word(to + kSource.quants + 4 * j, kLayout.bytes ? word ^ flip : word);
    }
  }
}

using Pack = void (*)(const std::byte* const[16], std::int64_t, bool, std::byte*);
using Unpack = void (*)(const std::byte*, int, std::int64_t, bool, std::byte*);
constexpr Pack kPack[kQuant32Types] = {pack32<kQuantQ4_0>, pack32<kQuantQ4_1>, pack32<kQuantQ5_0>,
                                       pack32<kQuantQ5_1>, pack32<kQuantQ8_0>, pack32<kQuantIQ4_NL>,
                                       pack32<kQuantMXFP4>};
constexpr Unpack kUnpack[kQuant32Types] = {
    unpack32<kQuantQ4_0>, unpack32<kQuantQ4_1>,   unpack32<kQuantQ5_0>, unpack32<kQuantQ5_1>,
    unpack32<kQuantQ8_0>, unpack32<kQuantIQ4_NL>, unpack32<kQuantMXFP4>};

void check_type(int type, std::int64_t in) {
  MESH_CHECK(type >= 0 && type < kQuant32Types && in > 0 && in % 32 == 0,
             "{} columns in blocks of type {}", in, type);
}

}  // namespace

std::size_t quant_group_bytes(int type, std::int64_t in) {
  if (is_256(type)) return group_bytes256(type, in);
  check_type(type, in);
  const Layout32 layout = kLayout32[type];
  const std::int64_t units = in / 32 / layout.blocks, rest = in / 32 % layout.blocks;
  return static_cast<std::size_t>(units * layout.unit_bytes + rest * (64 + layout.quant_bytes));
}

void quant_pack_group(int type, const std::byte* const rows[16], std::int64_t in, bool isa_signed,
                      std::byte* group) {
  if (is_256(type)) return pack_group256(type, rows, in, group);
  check_type(type, in);
  for (int output = 0; output < kOutputs; ++output)
    if (rows[output] == nullptr) {
      std::memset(group, 0, quant_group_bytes(type, in));
      break;
    }
  kPack[type](rows, in, isa_signed, group);
}

void quant_unpack_row(int type, const std::byte* group, int output, std::int64_t in,
                      bool isa_signed, std::byte* blocks) {
  if (is_256(type)) return unpack_row256(type, group, output, in, blocks);
  check_type(type, in);
  kUnpack[type](group, output, in, isa_signed, blocks);
}

}  // namespace mesh::backends::cpu
