#pragma once
// What two nodes compare before they link: do they hold the same model?

#include <cstdint>
#include <string>

#include "base/result.h"
#include "formats/tensor_source.h"
#include "model/spec.h"

namespace mesh::model {

// Not a cryptographic hash: it finds mistakes, not forgeries. Members are trusted by certificate.
struct Fingerprint {
  std::uint64_t value = 0;
  auto operator<=>(const Fingerprint&) const = default;
  std::string text() const;  // 16 hexadecimal digits
};

// XXH3 over canonical_text(spec), the table of the model's tensors (name, type, shape) and 64 spots
// of 8 bytes of each, fewer in a model of so many tensors that a disk would be busy for minutes
// (each expert in tensors of its own). Does not depend on shards, order in the file, or tensors
// that the model does not use. Errors: those of tensor_table() over all layers, and of
// reading.
Result<Fingerprint> fingerprint(const ModelSpec& spec, const formats::TensorSource& source);

// Byte offset of spot `index` < 64 of a tensor of `bytes` bytes: a function of the two numbers
// alone, ascending, spread over the tensor from its first to its last byte.
std::uint64_t spot_offset(std::uint64_t bytes, std::uint32_t index);

// Spots of each tensor in a model of so many: first and last are always among them.
std::uint32_t spots_per_tensor(std::size_t tensors);

inline constexpr std::uint32_t kSpotsPerTensor = 64;
inline constexpr std::uint32_t kSpotsPerSmallTensor = 4;               // the fewest
inline constexpr std::size_t kSpotsPerModel = 2048 * std::size_t{64};  // beyond it, fewer each
inline constexpr std::uint64_t kSpotBytes = 8;

}  // namespace mesh::model
