#pragma once
// Element types and the exact conversions between them that the numeric class allows.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace mesh::tensor {

enum class DType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
  // Blocks of quantised values with their scales, as GGUF stores them. tensor/quantized.h.
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4
};

// Bytes of one element; types of blocks have none and are our own bug here.
std::size_t dtype_bytes(DType dtype);
std::string_view dtype_name(DType dtype);  // safetensors' or ggml's spelling: "BF16", "Q4_K"
std::optional<DType> dtype_from_name(std::string_view name);

// A block is the smallest part of a row that can be stored: 32 or 256 elements of a quantised type,
// one element of any other.
std::size_t block_elements(DType dtype);
std::size_t block_bytes(DType dtype);
// Bytes of a row of so many columns, a multiple of block_elements().
inline std::size_t row_bytes(DType dtype, std::int64_t columns) {
  return static_cast<std::size_t>(columns) / block_elements(dtype) * block_bytes(dtype);
}
inline bool is_quantized(DType dtype) {
  return dtype >= DType::kQ4_0;
}
// The types of plain numbers that weights may have: f32, bf16, f16.
inline bool is_float_weight(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

inline float bf16_to_f32(std::uint16_t x) {
  return std::bit_cast<float>(std::uint32_t{x} << 16);
}

// Round to nearest even by integer arithmetic; keeps denormals (vcvtneps2bf16 would flush them) and
// NaN stays NaN.
inline std::uint16_t f32_to_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

// Exact for every half, denormals included.
inline float f16_to_f32(std::uint16_t x) {
  const std::uint32_t sign = std::uint32_t{x & 0x8000u} << 16;
  const std::uint32_t exponent = (x >> 10) & 31u;
  const std::uint32_t mantissa = x & 0x3FFu;
  if (exponent == 31u) return std::bit_cast<float>(sign | 0x7F800000u | (mantissa << 13));
  if (exponent != 0u)
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

// Round to nearest even; beyond the largest half infinite, NaN stays NaN.
inline std::uint16_t f32_to_f16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<std::uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<std::uint16_t>(sign | 0x7C00u);
  if (magnitude <
      0x38800000u) {  // a denormal half: adding 0.5 leaves its bits, rounded, at the end
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000u));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
}

}  // namespace mesh::tensor
