#pragma once
// Seeded random weights in the blocks of a quantised type, for generated models.

#include <cstddef>
#include <cstdint>
#include <span>

#include "tensor/dtype.h"

namespace mesh::model {

// Block `index` of the sequence that `key` names; out has block_bytes(dtype) bytes. Quants and
// sub-block scales are uniform; the block's scales are such that values have about the given
// standard deviation and a mean near zero.
void random_block(tensor::DType dtype, std::uint64_t key, std::uint64_t index, float deviation,
                  std::span<std::byte> out);

}  // namespace mesh::model
