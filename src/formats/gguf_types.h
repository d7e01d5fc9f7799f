#pragma once
// What reader and writer of GGUF share: the numbers of value and element types, and the rules for
// names. Source: docs/gguf.md and ggml.h of https://github.com/ggml-org/ggml.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tensor/dtype.h"

namespace mesh::formats::gguf {

inline constexpr std::uint32_t kMagic = 0x46554747;  // "GGUF"
inline constexpr std::uint32_t kVersion = 3;
inline constexpr std::uint64_t kAlignment = 32;  // without general.alignment
inline constexpr std::string_view kAlignmentKey = "general.alignment";

enum class ValueType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12
};

// ggml's name of an element type, also of those that are not read; empty if there is none.
std::string_view element_type_name(std::uint32_t number);
std::optional<tensor::DType> element_type(std::uint32_t number);
// nullopt for the types that GGUF cannot store (unsigned bytes, bool, 8-bit floats).
std::optional<std::uint32_t> element_number(tensor::DType dtype);

// Why a key's or tensor's name is refused ("is empty", …); empty if it is not.
std::string_view name_fault(std::string_view name);
// A name for messages: cut, and whatever is not printable ASCII replaced by '?'.
std::string printable(std::string_view name);

// The next multiple; `alignment` is a power of two, the sum must fit.
constexpr std::uint64_t aligned(std::uint64_t at, std::uint64_t alignment) {
  return (at + alignment - 1) & ~(alignment - 1);
}

}  // namespace mesh::formats::gguf
