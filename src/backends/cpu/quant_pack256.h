#pragma once
// Packs weights in blocks of 256 k into groups of 16 outputs (layout: quant256.h). Pure; any
// thread.

#include <cstddef>
#include <cstdint>

namespace mesh::backends::cpu {

// Bytes of one group with `in` columns, a multiple of 64.
std::size_t group_bytes256(int type, std::int64_t in);

// Writes the group whose 16 outputs are the given rows of source blocks; a null row becomes zeros.
// All instruction sets share the layout.
void pack_group256(int type, const std::byte* const rows[16], std::int64_t in, std::byte* group);

// The source blocks of one output of a group, as they were packed.
void unpack_row256(int type, const std::byte* group, int output, std::int64_t in,
                   std::byte* blocks);

}  // namespace mesh::backends::cpu
