#pragma once
// The self-test of numeric class cpu/1.

#include <cstdint>

#include "ops/ops.h"

namespace mesh::backends::cpu {

// Runs every kernel family on fixed inputs at awkward sizes and hashes all results, byte order
// little-endian.
std::uint64_t hash_kernels(ops::Backend& backend);

}  // namespace mesh::backends::cpu
