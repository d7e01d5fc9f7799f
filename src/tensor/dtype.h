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
  kF8E5M2
};

std::size_t dtype_bytes(DType dtype);
std::string_view dtype_name(DType dtype);  // safetensors spelling: "F32", "BF16"
std::optional<DType> dtype_from_name(std::string_view name);

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

}  // namespace mesh::tensor
