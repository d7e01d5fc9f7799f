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

void pack_block(const Source& source, const Layout256& layout, const std::byte* block, int output,
                std::byte* head, std::byte* body) {
  std::memcpy(head + 2 * output, block + source.d, 2);
  if (!layout.paired) std::memcpy(head + 32 + 2 * output, block + source.beside, 2);
  std::byte* to = body + 4 * output;
  for (const Run& run : source.runs)
    for (int i = 0; i < run.dwords; ++i, to += kLine) {
      std::byte dword[4];
      std::memcpy(dword, block + run.offset + 4 * static_cast<std::size_t>(i), 4);
      if (run.swap) std::swap(dword[1], dword[2]);
      std::memcpy(to, dword, 4);
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

void pack_group256(int type, const std::byte* const rows[16], std::int64_t in, bool /*isa_signed*/,
                   std::byte* group) {
  std::memset(group, 0, group_bytes256(type, in));
  const Source& source = kSources[index_of(type)];
  const Layout256& layout = kLayout256[index_of(type)];
  std::byte* head = group;
  std::byte* body = group + kLine;
  const std::size_t body_bytes = kLine * static_cast<std::size_t>(layout.lines);
  for (std::int64_t block = 0; block < in / 256; ++block) {
    for (int output = 0; output < kOutputs; ++output)
      if (rows[output] != nullptr)
        pack_block(source, layout, rows[output] + static_cast<std::size_t>(block) * source.bytes,
                   output, head, body);
    if (layout.paired && block % 2 == 0) {
      head += 32;
      body += body_bytes;
    } else {
      head = body + body_bytes;
      body = head + kLine;
    }
  }
}

}  // namespace mesh::backends::cpu
