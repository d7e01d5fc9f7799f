#include "backends/cpu/quant_pack256.h"

#include <cstring>
#include <utility>

#include "backends/cpu/quant256.h"
#include "base/check.h"

namespace mesh::backends::cpu {
namespace {

constexpr std::size_t kLine = 64;
constexpr int kOutputs = 16;

// A run of dwords of the source block that become consecutive lines of the body.
struct Run {
  std::size_t offset = 0;
  int dwords = 0;
  // Bytes 1 and 2 change places, so that masking with 0x00FF00FF leaves neighbours, the order in
  // which the sums of 16 columns lie.
  bool swap = false;
};
struct Source {
  std::size_t bytes = 0;   // of a block
  std::size_t d = 0;       // offset of d
  std::size_t beside = 0;  // offset of the other half of the head, unless heads are paired
  Run runs[13];
};

// By type - kQuantQ2_K. Source of the offsets: ggml, ggml-common.h.
constexpr Source kSources[kQuantTypes - kQuantQ2_K] = {
    {84, 80, 82, {{0, 4, true}, {16, 16}}},
    {110, 108, 0, {{96, 3, true}, {0, 4}, {32, 4}, {16, 4}, {48, 4}, {64, 8}}},
    {144, 0, 2, {{4, 3}, {16, 32}}},
    {176, 0, 2, {{4, 3}, {16, 8}, {48, 32}}},
    {210,
     208,
     0,
     {{192, 4, true},
      {128, 4},
      {0, 4},
      {32, 4},
      {144, 4},
      {16, 4},
      {48, 4},
      {160, 4},
      {64, 4},
      {96, 4},
      {176, 4},
      {80, 4},
      {112, 4}}},
    {136, 0, 2, {{4, 1}, {8, 32}}},
};

int index_of(int type) {
  MESH_CHECK(is_256(type) && type < kQuantTypes, "type {} has no blocks of 256", type);
  return type - kQuantQ2_K;
}

// Copies one block of one output between the source's order and the group's.
void pack_block(const Source& source, const Layout256& layout, const std::byte* block, int output,
                std::byte* head, std::byte* body) {
  std::memcpy(head + 2 * output, block + source.d, 2);
  if (!layout.paired) std::memcpy(head + 32 + 2 * output, block + source.beside, 2);
  std::byte* to = body + 4 * output;
  for (const Run& run : source.runs)
    for (int i = 0; i < run.dwords; ++i, to += kLine) {
      std::memcpy(to, block + run.offset + 4 * static_cast<std::size_t>(i), 4);
      if (run.swap) std::swap(to[1], to[2]);
    }
}

void unpack_block(const Source& source, const Layout256& layout, const std::byte* head,
                  const std::byte* body, int output, std::byte* block) {
  std::memcpy(block + source.d, head + 2 * output, 2);
  if (!layout.paired) std::memcpy(block + source.beside, head + 32 + 2 * output, 2);
  const std::byte* from = body + 4 * output;
  for (const Run& run : source.runs)
    for (int i = 0; i < run.dwords; ++i, from += kLine) {
      std::byte* to = block + run.offset + 4 * static_cast<std::size_t>(i);
      std::memcpy(to, from, 4);
      if (run.swap) std::swap(to[1], to[2]);
    }
}

// Calls f(block, head, body) with the offsets of every block of a group.
template <typename F>
void for_blocks(const Layout256& layout, std::int64_t in, const F& f) {
  std::size_t head = 0, body = kLine;
  const std::size_t body_bytes = kLine * static_cast<std::size_t>(layout.lines);
  for (std::size_t block = 0; block < static_cast<std::size_t>(in / 256); ++block) {
    f(block, head, body);
    if (layout.paired && block % 2 == 0) {
      head += 32;
      body += body_bytes;
    } else {
      head = body + body_bytes;
      body = head + kLine;
    }
  }
}

}  // namespace

std::size_t group_bytes256(int type, std::int64_t in) {
  const Layout256& layout = kLayout256[index_of(type)];
  MESH_CHECK(in >= 0 && in % 256 == 0, "{} columns in blocks of 256", in);
  const auto blocks = static_cast<std::size_t>(in / 256);
  const std::size_t heads = layout.paired ? (blocks + 1) / 2 : blocks;
  return kLine * (heads + blocks * static_cast<std::size_t>(layout.lines));
}

void pack_group256(int type, const std::byte* const rows[16], std::int64_t in, std::byte* group) {
  std::memset(group, 0, group_bytes256(type, in));
  const Source& source = kSources[index_of(type)];
  const Layout256& layout = kLayout256[index_of(type)];
  for_blocks(layout, in, [&](std::size_t block, std::size_t head, std::size_t body) {
    for (int output = 0; output < kOutputs; ++output)
      if (rows[output] != nullptr)
        pack_block(source, layout, rows[output] + block * source.bytes, output, group + head,
                   group + body);
  });
}

void unpack_row256(int type, const std::byte* group, int output, std::int64_t in,
                   std::byte* blocks) {
  const Source& source = kSources[index_of(type)];
  const Layout256& layout = kLayout256[index_of(type)];
  for_blocks(layout, in, [&](std::size_t block, std::size_t head, std::size_t body) {
    unpack_block(source, layout, group + head, group + body, output, blocks + block * source.bytes);
  });
}

}  // namespace mesh::backends::cpu
