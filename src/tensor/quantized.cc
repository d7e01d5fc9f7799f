#include "tensor/quantized.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace mesh::tensor {
namespace {

using u8 = std::uint8_t;

float half_at(const u8* p) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof(bits));
  return f16_to_f32(bits);
}
std::uint32_t word_at(const u8* p) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}

// --- blocks of 32: low nibbles are the first 16 values, high ones the last 16
template <typename Value>
void nibbles(const u8* p, float* out, Value value) {
  for (int j = 0; j < 16; ++j) {
    out[j] = value(p[j] & 15, j);
    out[j + 16] = value(p[j] >> 4, j + 16);
  }
}

void q4_0(const u8* p, float* out) {
  const float d = half_at(p);
  nibbles(p + 2, out, [d](int q, int) { return d * static_cast<float>(q - 8); });
}
void q4_1(const u8* p, float* out) {
  const float d = half_at(p), m = half_at(p + 2);
  nibbles(p + 4, out, [=](int q, int) { return d * static_cast<float>(q) + m; });
}
void q5_0(const u8* p, float* out) {
  const float d = half_at(p);
  const std::uint32_t high = word_at(p + 2);
  nibbles(p + 6, out, [=](int q, int i) {
    return d * static_cast<float>((q | static_cast<int>((high >> i) & 1u) << 4) - 16);
  });
}
void q5_1(const u8* p, float* out) {
  const float d = half_at(p), m = half_at(p + 2);
  const std::uint32_t high = word_at(p + 4);
  nibbles(p + 8, out, [=](int q, int i) {
    return d * static_cast<float>(q | static_cast<int>((high >> i) & 1u) << 4) + m;
  });
}
void q8_0(const u8* p, float* out) {
  const float d = half_at(p);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(static_cast<std::int8_t>(p[2 + j]));
}
void iq4_nl(const u8* p, float* out) {
  const float d = half_at(p);
  nibbles(p + 2, out, [d](int q, int) { return d * static_cast<float>(kNonlinear4[q]); });
}
void mxfp4(const u8* p, float* out) {
  // Halving first would lose the last bit of the smallest scale only as a denormal, which f32 has.
  const float d = e8m0_to_f32(p[0]) * 0.5f;
  nibbles(p + 1, out, [d](int q, int) { return d * static_cast<float>(kTwiceE2M1[q]); });
}

// --- blocks of 256
// Groups of 16 values of Q2_K and Q3_K: value l of group i has its two bits in byte
// 32·(i/8) + 16·(i%2) + l, at bit 2·(i/2 % 4).
int two_bits(const u8* qs, int group, int l) {
  return (qs[32 * (group / 8) + 16 * (group % 2) + l] >> (2 * (group / 2 % 4))) & 3;
}

void q2_k(const u8* p, float* out) {
  const float d = half_at(p + 80), dmin = half_at(p + 82);
  for (int i = 0; i < 16; ++i) {
    const float scale = d * static_cast<float>(p[i] & 15);
    const float min = dmin * static_cast<float>(p[i] >> 4);
    for (int l = 0; l < 16; ++l)
      out[16 * i + l] = scale * static_cast<float>(two_bits(p + 16, i, l)) - min;
  }
}
void q3_k(const u8* p, float* out) {
  const float d = half_at(p + 108);
  for (int i = 0; i < 16; ++i) {
    const float scale = d * static_cast<float>(scale_q3(p + 96, i) - 32);
    for (int l = 0; l < 16; ++l) {
      const bool high = ((p[16 * (i % 2) + l] >> (4 * (i / 8) + i / 2 % 4)) & 1) != 0;
      out[16 * i + l] = scale * static_cast<float>(two_bits(p + 32, i, l) - (high ? 0 : 4));
    }
  }
}
// Q4_K and Q5_K; `high` is null or 32 bytes whose bit s belongs to sub-block s.
void k_scaled_min(const u8* p, const u8* high, const u8* qs, float* out) {
  const float d = half_at(p), dmin = half_at(p + 2);
  for (int s = 0; s < 8; ++s) {
    const ScaleMin packed = scale_min(p + 4, s);
    const float scale = d * static_cast<float>(packed.scale);
    const float min = dmin * static_cast<float>(packed.min);
    for (int l = 0; l < 32; ++l) {
      int q = (qs[32 * (s / 2) + l] >> (4 * (s % 2))) & 15;
      if (high != nullptr) q |= ((high[l] >> s) & 1) << 4;
      out[32 * s + l] = scale * static_cast<float>(q) - min;
    }
  }
}
void q4_k(const u8* p, float* out) {
  k_scaled_min(p, nullptr, p + 16, out);
}
void q5_k(const u8* p, float* out) {
  k_scaled_min(p, p + 16, p + 48, out);
}
void q6_k(const u8* p, float* out) {
  const float d = half_at(p + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, l = i % 32;
    const int low = (p[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2))) & 15;
    const int high = (p[128 + 32 * half + l] >> (2 * quarter)) & 3;
    const int scale = static_cast<std::int8_t>(p[192 + i / 16]);
    out[i] = d * static_cast<float>(scale) * static_cast<float>((low | high << 4) - 32);
  }
}
void iq4_xs(const u8* p, float* out) {
  const float d = half_at(p);
  const unsigned high = static_cast<unsigned>(p[2]) | static_cast<unsigned>(p[3]) << 8;
  for (int s = 0; s < 8; ++s) {
    const int scale =
        ((p[4 + s / 2] >> (4 * (s % 2))) & 15) | static_cast<int>((high >> (2 * s)) & 3u) << 4;
    const float step = d * static_cast<float>(scale - 32);
    nibbles(p + 8 + 16 * s, out + 32 * s,
            [step](int q, int) { return step * static_cast<float>(kNonlinear4[q]); });
  }
}

void floats(DType dtype, const std::byte* bytes, std::int64_t count, float* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, bytes, static_cast<std::size_t>(count) * sizeof(float));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, bytes + 2 * i, sizeof(half));
    out[i] = dtype == DType::kBF16 ? bf16_to_f32(half) : f16_to_f32(half);
  }
}

using Decode = void (*)(const u8*, float*);
Decode decoder_of(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return q4_0;
    case DType::kQ4_1:
      return q4_1;
    case DType::kQ5_0:
      return q5_0;
    case DType::kQ5_1:
      return q5_1;
    case DType::kQ8_0:
      return q8_0;
    case DType::kQ2_K:
      return q2_k;
    case DType::kQ3_K:
      return q3_k;
    case DType::kQ4_K:
      return q4_k;
    case DType::kQ5_K:
      return q5_k;
    case DType::kQ6_K:
      return q6_k;
    case DType::kIQ4_NL:
      return iq4_nl;
    case DType::kIQ4_XS:
      return iq4_xs;
    case DType::kMXFP4:
      return mxfp4;
    default:
      return nullptr;
  }
}

}  // namespace

std::span<const BlockScales> block_scales() {
  static constexpr BlockScales kScales[] = {
      {DType::kQ4_0, 0, -1},   {DType::kQ4_1, 0, 2},   {DType::kQ5_0, 0, -1},
      {DType::kQ5_1, 0, 2},    {DType::kQ8_0, 0, -1},  {DType::kIQ4_NL, 0, -1},
      {DType::kMXFP4, -1, -1}, {DType::kQ2_K, 80, 82}, {DType::kQ3_K, 108, -1},
      {DType::kQ4_K, 0, 2},    {DType::kQ5_K, 0, 2},   {DType::kQ6_K, 208, -1},
      {DType::kIQ4_XS, 0, -1}};
  return kScales;
}

ScaleMin scale_min(const std::uint8_t* packed, int j) {
  if (j < 4) return {static_cast<u8>(packed[j] & 63), static_cast<u8>(packed[j + 4] & 63)};
  return {static_cast<u8>((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4),
          static_cast<u8>((packed[j + 4] >> 4) | (packed[j] >> 6) << 4)};
}

std::uint8_t scale_q3(const std::uint8_t* packed, int j) {
  const int low = j < 8 ? packed[j] & 15 : packed[j - 8] >> 4;
  return static_cast<u8>(low | ((packed[8 + j % 4] >> (2 * (j / 4))) & 3) << 4);
}

float e8m0_to_f32(std::uint8_t e) {
  if (e == 0) return 0x1p-127f;
  return std::bit_cast<float>(std::uint32_t{e} << 23);
}

void dequantize(DType dtype, const std::byte* blocks, std::int64_t count, float* out) {
  if (is_float_weight(dtype)) return floats(dtype, blocks, count, out);
  const Decode decode = decoder_of(dtype);
  MESH_CHECK(decode != nullptr, "{} has no blocks", dtype_name(dtype));
  const auto elements = static_cast<std::int64_t>(block_elements(dtype));
  MESH_CHECK(count % elements == 0, "{} values in blocks of {}", count, elements);
  const auto* p = reinterpret_cast<const u8*>(blocks);
  for (std::int64_t i = 0; i < count; i += elements, p += block_bytes(dtype)) decode(p, out + i);
}

}  // namespace mesh::tensor
