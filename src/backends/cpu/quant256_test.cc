// Products with weights in blocks of 256 against their definition (docs/numerics.md, "256-blocks"),
// computed from the source blocks one weight at a time, by bits.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/isa.h"
#include "backends/cpu/quant256.h"
#include "backends/cpu/quant_pack256.h"
#include "tensor/dtype.h"
#include "tensor/quantized.h"

namespace mesh::backends::cpu {
namespace {

using tensor::DType;
using u8 = std::uint8_t;

constexpr int kFirst = kQuantQ2_K, kRowsMax = 20;
constexpr DType kDTypes[] = {DType::kQ2_K, DType::kQ3_K, DType::kQ4_K,
                             DType::kQ5_K, DType::kQ6_K, DType::kIQ4_XS};
DType dtype_of(int type) {
  return kDTypes[type - kFirst];
}
std::size_t offset_of_d(int type) {
  constexpr std::size_t kOffsets[] = {80, 108, 0, 0, 208, 0};
  return kOffsets[type - kFirst];
}
bool has_min(int type) {
  return type == kQuantQ2_K || type == kQuantQ4_K || type == kQuantQ5_K;
}

// --- the definition
struct Block {
  int w[256] = {};
  int sub = 32;
  int scale[16] = {}, min[16] = {};
  float d = 0, dmin = 0;
};
float half_at(const u8* p) {
  return tensor::f16_to_f32(static_cast<std::uint16_t>(p[0] | p[1] << 8));
}
int two_bits(const u8* qs, int k) {
  return (qs[k / 128 * 32 + k % 32] >> (k / 32 % 4 * 2)) & 3;
}
Block decode_32(int type, const u8* p) {
  Block b;
  if (has_min(type)) b.dmin = half_at(p + 2);
  for (int s = 0; s < 8; ++s) {
    if (type == kQuantIQ4_XS) {
      const int high = (p[2 + s / 4] >> (s % 4 * 2)) & 3;
      b.scale[s] = (((p[4 + s / 2] >> (s % 2 * 4)) & 15) | high << 4) - 32;
    } else {
      b.scale[s] = tensor::scale_min(p + 4, s).scale;
      b.min[s] = tensor::scale_min(p + 4, s).min;
    }
    for (int l = 0; l < 32; ++l) {
      int& w = b.w[32 * s + l];
      if (type == kQuantIQ4_XS) {
        w = tensor::kNonlinear4[(p[8 + 16 * s + l % 16] >> (l / 16 * 4)) & 15];
        continue;
      }
      w = (p[(type == kQuantQ5_K ? 48 : 16) + s / 2 * 32 + l] >> (s % 2 * 4)) & 15;
      if (type == kQuantQ5_K) w |= ((p[16 + l] >> s) & 1) << 4;
    }
  }
  return b;
}
Block decode_16(int type, const u8* p) {
  Block b;
  b.sub = 16;
  if (type == kQuantQ2_K) b.dmin = half_at(p + 82);
  for (int s = 0; s < 16; ++s) {
    if (type == kQuantQ2_K) {
      b.scale[s] = p[s] & 15;
      b.min[s] = p[s] >> 4;
    } else {
      b.scale[s] = type == kQuantQ3_K ? tensor::scale_q3(p + 96, s) - 32
                                      : static_cast<std::int8_t>(p[192 + s]);
    }
  }
  for (int k = 0; k < 256; ++k) {
    if (type == kQuantQ2_K) {
      b.w[k] = two_bits(p + 16, k);
    } else if (type == kQuantQ3_K) {
      b.w[k] = two_bits(p + 32, k) - (((p[k % 32] >> (k / 32)) & 1) != 0 ? 0 : 4);
    } else {
      const int half = k / 128, quarter = k % 128 / 32, l = k % 32;
      const int low = (p[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2))) & 15;
      b.w[k] = (low | ((p[128 + 32 * half + l] >> (2 * quarter)) & 3) << 4) - 32;
    }
  }
  return b;
}
Block decode(int type, const u8* p) {
  const bool wide = type == kQuantQ4_K || type == kQuantQ5_K || type == kQuantIQ4_XS;
  Block b = wide ? decode_32(type, p) : decode_16(type, p);
  b.d = half_at(p + offset_of_d(type));
  return b;
}

struct Quantized {
  std::vector<int> q;
  std::vector<float> d;  // one per 256
};
Quantized quantize(const std::vector<float>& x) {
  Quantized out;
  for (std::size_t k0 = 0; k0 < x.size(); k0 += 256) {
    float a = 0;
    for (std::size_t k = k0; k < k0 + 256; ++k) a = std::max(a, std::fabs(x[k]));
    const float inverse = a < 0x1p-100f ? 0.0f : 127.0f / a;
    for (std::size_t k = k0; k < k0 + 256; ++k)
      out.q.push_back(static_cast<int>(std::nearbyintf(x[k] * inverse)));
    out.d.push_back(a < 0x1p-100f ? 0.0f : a / 127.0f);
  }
  return out;
}

float product(int type, const std::vector<u8>& row, const Quantized& x) {
  float acc = 0;
  for (std::size_t block = 0; block < x.d.size(); ++block) {
    const Block b = decode(type, row.data() + block * tensor::block_bytes(dtype_of(type)));
    std::int64_t s1 = 0, s2 = 0;
    for (int k = 0; k < 256; ++k) {
      const int q = x.q[block * 256 + static_cast<std::size_t>(k)];
      s1 += b.scale[k / b.sub] * b.w[k] * q;
      s2 += b.min[k / b.sub] * q;
    }
    EXPECT_LT(std::abs(s1), INT32_MAX);
    float f = static_cast<float>(s1) * b.d;
    if (has_min(type)) f = std::fma(static_cast<float>(s2), -b.dmin, f);
    acc = std::fma(f, x.d[block], acc);
  }
  return acc;
}

// --- inputs
enum class Kind { kRandom, kOnes, kZeros, kExtremeScales };
std::uint16_t finite_half(std::mt19937& random, bool small) {
  const auto bits = static_cast<std::uint16_t>(random());
  return static_cast<std::uint16_t>(bits & (small ? 0x83FFu : 0xBFFFu));
}
std::vector<u8> make_row(int type, int blocks, Kind kind, std::mt19937& random) {
  const std::size_t bytes = tensor::block_bytes(dtype_of(type));
  std::vector<u8> row(bytes * static_cast<std::size_t>(blocks));
  for (u8& byte : row)
    byte = kind == Kind::kOnes ? 255 : kind == Kind::kZeros ? 0 : static_cast<u8>(random());
  for (std::size_t block = 0; block < row.size(); block += bytes) {
    // Subnormal halves with the sign either way, or any finite one.
    const std::uint16_t d = finite_half(random, kind == Kind::kExtremeScales);
    const std::uint16_t dmin = finite_half(random, kind == Kind::kExtremeScales);
    std::memcpy(row.data() + block + offset_of_d(type), &d, 2);
    if (has_min(type)) std::memcpy(row.data() + block + offset_of_d(type) + 2, &dmin, 2);
    // Factors of −128 and 127 side by side.
    if (kind == Kind::kExtremeScales && type == kQuantQ6_K)
      for (std::size_t s = 0; s < 16; ++s) row[block + 192 + s] = s % 3 == 0 ? 0x80 : 0x7F;
  }
  return row;
}
std::vector<float> make_x(int in, int row, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(in));
  for (float& value : x) {
    value = normal(random);
    if (row == 1) value = 3.0f;                            // all +127
    if (row == 2) value = -0.25f;                          // all −127
    if (row == 3) value = 0;                               // a scale of zero
    if (row == 4) value = std::copysign(0x1p-90f, value);  // tiny, yet counted
  }
  return x;
}

template <int T>
std::vector<Act256<T>> tiles_of(const std::vector<Quantized>& x, int rows) {
  constexpr int kOrder[8] = {0, 2, 1, 3, 4, 6, 5, 7};
  const std::size_t blocks = x[0].d.size();
  std::vector<Act256<T>> tiles(static_cast<std::size_t>((rows + T - 1) / T) * blocks);
  for (Act256<T>& tile : tiles) std::memset(&tile, 0, sizeof(tile));
  for (int row = 0; row < rows; ++row)
    for (std::size_t block = 0; block < blocks; ++block) {
      Act256<T>& tile = tiles[static_cast<std::size_t>(row / T) * blocks + block];
      const Quantized& from = x[static_cast<std::size_t>(row)];
      const int t = row % T;
      tile.d[t] = from.d[block];
      std::array<int, 8> sums{};
      for (int k = 0; k < 256; ++k) {
        const int q = from.q[block * 256 + static_cast<std::size_t>(k)];
        tile.q[t][k] = static_cast<std::int8_t>(q);
        tile.sum16[t][k / 16] += q;
        sums[static_cast<std::size_t>(k / 32)] += q;
      }
      for (int i = 0; i < 8; ++i)
        tile.pair32[t][i] = static_cast<std::int16_t>(sums[static_cast<std::size_t>(kOrder[i])]);
    }
  return tiles;
}

// --- instruction sets of the machine at hand
struct Named {
  std::string isa;
  const QuantKernels* kernels;
};
std::vector<Named> tables() {
  std::vector<Named> all = {{"scalar_plain", &scalar_plain_quant256_kernels()}};
#if defined(MESH_CPU_X86)
  if (__builtin_cpu_supports("fma")) all.push_back({"scalar", &scalar_fma_quant256_kernels()});
  if (select_kernels("avx2").ok()) all.push_back({"avx2", &avx2_quant256_kernels()});
  if (select_kernels("avx512").ok() && __builtin_cpu_supports("avx512vnni"))
    all.push_back({"avx512", &avx512_quant256_kernels()});
#elif defined(MESH_CPU_ARM)
  all.push_back({"neon", &neon_quant256_kernels()});
  if (select_kernels("neon_dotprod").ok())
    all.push_back({"neon_dotprod", &neon_dotprod_quant256_kernels()});
#endif
  return all;
}

struct Lines {
  alignas(64) std::byte bytes[64];
};
struct Case {
  int type = 0, outs = 0, in = 0;
  bool bias = false;
  std::vector<std::vector<u8>> rows;  // of weights
  std::vector<Lines> packed;
  std::vector<Quantized> x;
  std::vector<float> biases;
  std::vector<float> expected;  // [kRowsMax, outs]
  int groups() const { return (outs + 15) / 16; }
};

Case make_case(int type, int outs, int blocks, Kind kind, bool bias, std::mt19937& random) {
  Case c;
  c.type = type;
  c.outs = outs;
  c.in = 256 * blocks;
  c.bias = bias;
  for (int o = 0; o < outs; ++o) c.rows.push_back(make_row(type, blocks, kind, random));
  const std::size_t group_lines = group_bytes256(type, c.in) / 64;
  c.packed.resize(group_lines * static_cast<std::size_t>(c.groups()));
  for (int g = 0; g < c.groups(); ++g) {
    const std::byte* rows[16] = {};
    for (int o = 0; o < 16 && g * 16 + o < outs; ++o)
      rows[o] =
          reinterpret_cast<const std::byte*>(c.rows[static_cast<std::size_t>(g * 16 + o)].data());
    pack_group256(type, rows, c.in, c.packed[group_lines * static_cast<std::size_t>(g)].bytes);
  }
  for (int r = 0; r < kRowsMax; ++r) c.x.push_back(quantize(make_x(c.in, r, random)));
  for (int o = 0; o < outs; ++o) c.biases.push_back(std::ldexp(1.0f, o % 20));
  for (const Quantized& x : c.x)
    for (int o = 0; o < outs; ++o) {
      const float y = product(type, c.rows[static_cast<std::size_t>(o)], x);
      c.expected.push_back(bias ? y + c.biases[static_cast<std::size_t>(o)] : y);
    }
  return c;
}

void check(const Case& c, const Named& named, int rows) {
  constexpr float kGuard = 12345.0f;
  const std::int64_t ldy = c.outs + 3;
  std::vector<float> y(static_cast<std::size_t>(rows * ldy), kGuard);
  const std::vector<Act256<1>> one = tiles_of<1>(c.x, 1);
  const std::vector<Act256<kActRows>> many = tiles_of<kActRows>(c.x, rows);
  QuantArgs a;
  a.w = c.packed[0].bytes;
  a.group_bytes = group_bytes256(c.type, c.in);
  a.groups = c.groups();
  a.outs = c.outs;
  a.in = c.in;
  a.rows = rows;
  a.x = rows == 1 ? static_cast<const void*>(one.data()) : many.data();
  a.y = y.data();
  a.ldy = ldy;
  a.bias = c.bias ? c.biases.data() : nullptr;
  (rows == 1 ? named.kernels->one : named.kernels->rows)[c.type](a);
  for (int r = 0; r < rows; ++r)
    for (std::int64_t o = 0; o < ldy; ++o) {
      const float got = y[static_cast<std::size_t>(r * ldy + o)];
      const float want = o < c.outs ? c.expected[static_cast<std::size_t>(r * c.outs + o)] : kGuard;
      ASSERT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(want))
          << named.isa << " " << tensor::dtype_name(dtype_of(c.type)) << " rows " << rows
          << " outs " << c.outs << " in " << c.in << ": row " << r << " output " << o << " is "
          << got << ", not " << want;
    }
}

TEST(Quant256, GivesTheBitsOfItsDefinitionOnEveryInstructionSet) {
  constexpr unsigned kSeed = 7;
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  for (int type = kFirst; type < kQuantTypes; ++type)
    for (const int blocks : {1, 2, 3, 7})
      for (const int outs : {5, 32, 43}) {
        const Case c = make_case(type, outs, blocks, Kind::kRandom, outs == 43, random);
        for (const Named& named : tables())
          for (int rows = 1; rows <= kRowsMax; ++rows)
            ASSERT_NO_FATAL_FAILURE(check(c, named, rows));
      }
}

TEST(Quant256, KeepsExtremeBlocksExact) {
  constexpr unsigned kSeed = 8;
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  for (int type = kFirst; type < kQuantTypes; ++type)
    for (const Kind kind : {Kind::kOnes, Kind::kZeros, Kind::kExtremeScales}) {
      const Case c = make_case(type, 16, 3, kind, false, random);
      for (const Named& named : tables())
        for (const int rows : {1, 2, 4, 5, 20}) ASSERT_NO_FATAL_FAILURE(check(c, named, rows));
    }
}

// The source bytes of a body in the order of its lines, four to a line; −1 is no byte.
std::vector<int> body_bytes(int type) {
  std::vector<int> order;
  const auto run = [&order](int offset, int bytes, bool swap) {
    for (int i = 0; i < bytes; ++i) {
      const int in_dword = swap && (i % 4 == 1 || i % 4 == 2) ? 3 - i % 4 : i % 4;
      order.push_back(offset + i / 4 * 4 + in_dword);
    }
  };
  if (type == kQuantQ2_K) run(0, 16, true), run(16, 64, false);
  if (type == kQuantQ3_K) {
    run(96, 12, true);
    for (const int j : {0, 16}) run(j, 16, false), run(32 + j, 16, false);
    run(64, 32, false);
  }
  if (type == kQuantQ4_K) run(4, 140, false);
  if (type == kQuantQ5_K) run(4, 172, false);
  if (type == kQuantQ6_K) {
    run(192, 16, true);
    for (const int high : {128, 144, 160, 176}) {
      const int low = (high - 128) / 32 * 64 + high % 32;
      run(high, 16, false), run(low, 16, false), run(low + 32, 16, false);
    }
  }
  if (type == kQuantIQ4_XS) run(4, 132, false);
  return order;
}

TEST(QuantPack256, KeepsEveryByteOfTheFileAndAddsLessThanTwoPercent) {
  constexpr unsigned kSeed = 9;
  std::printf("seed %u\n", kSeed);
  std::mt19937 random(kSeed);
  for (int type = kFirst; type < kQuantTypes; ++type) {
    const std::size_t bytes = tensor::block_bytes(dtype_of(type));
    const std::vector<int> order = body_bytes(type);
    const std::size_t body = order.size() * 16;
    const bool paired = type == kQuantQ3_K || type == kQuantQ6_K;
    for (const int blocks : {1, 2, 5}) {
      const auto count = static_cast<std::size_t>(blocks);
      const std::size_t heads = paired ? (count + 1) / 2 : count;
      const std::size_t size = group_bytes256(type, 256 * blocks);
      ASSERT_EQ(size, 64 * heads + count * body);
      ASSERT_LT(static_cast<double>(size), 1.02 * 16 * static_cast<double>(bytes * count));
      std::vector<std::vector<u8>> rows(16);
      const std::byte* sources[16] = {};
      for (std::size_t o = 0; o < 15; ++o) {  // the last output pads the group
        rows[o] = make_row(type, blocks, Kind::kRandom, random);
        sources[o] = reinterpret_cast<const std::byte*>(rows[o].data());
      }
      rows[15].resize(bytes * count);
      std::vector<Lines> packed(size / 64);
      std::memset(packed.data(), 0xEE, size);
      pack_group256(type, sources, 256 * blocks, packed[0].bytes);
      for (std::size_t block = 0; block < count; ++block) {
        const std::size_t pairs = block / 2 * (64 + 2 * body);
        const std::size_t head = paired ? pairs + block % 2 * 32 : block * (64 + body);
        const std::size_t start = paired ? pairs + 64 + block % 2 * body : head + 64;
        const auto at = [&packed](std::size_t i) {
          return static_cast<int>(packed[i / 64].bytes[i % 64]);
        };
        for (std::size_t o = 0; o < 16; ++o) {
          const u8* source = rows[o].data() + block * bytes;
          for (std::size_t i = 0; i < 2; ++i) {
            ASSERT_EQ(at(head + 2 * o + i), source[offset_of_d(type) + i]);
            if (!paired) {
              ASSERT_EQ(at(head + 32 + 2 * o + i), source[offset_of_d(type) + 2 + i]);
            }
          }
          for (std::size_t i = 0; i < order.size(); ++i)
            ASSERT_EQ(at(start + i / 4 * 64 + 4 * o + i % 4), source[order[i]])
                << tensor::dtype_name(dtype_of(type)) << " block " << block << " byte " << order[i];
        }
      }
    }
  }
}

}  // namespace
}  // namespace mesh::backends::cpu
