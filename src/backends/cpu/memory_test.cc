#include "backends/cpu/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace mesh::backends::cpu {
namespace {

bool all(const Block& block, int value) {
  return std::all_of(block.data(), block.data() + block.size(),
                     [&](std::byte b) { return b == static_cast<std::byte>(value); });
}

// Pages of a block that lie in memory.
std::size_t resident(const std::byte* data, std::uint64_t bytes) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages(bytes / page);
  EXPECT_EQ(::mincore(const_cast<std::byte*>(data), bytes, pages.data()), 0);
  return static_cast<std::size_t>(
      std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return (p & 1) != 0; }));
}

TEST(Block, HugeOnesLieSideBySideAndApart) {
  std::vector<Block> blocks;
  for (int i = 0; i < 5; ++i) {
    blocks.push_back(Block::allocate(100'000 + static_cast<std::uint64_t>(i), true));
    ASSERT_TRUE(blocks.back());
    EXPECT_EQ(blocks.back().size(), 100'000u + static_cast<std::uint64_t>(i));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(blocks.back().data()) % 4096, 0u);
    EXPECT_TRUE(all(blocks.back(), 0));
    std::memset(blocks.back().data(), i + 1, blocks.back().size());
  }
  EXPECT_LT(blocks[4].data() - blocks[0].data(), 2 << 20);
  blocks.erase(blocks.begin() + 2);
  const int left[] = {1, 2, 4, 5};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(all(blocks[i], left[i])) << i;
}

TEST(Block, GivesMemoryBackWhileItsNeighbourLives) {
  const Block neighbour = Block::allocate(1 << 20, true);
  Block block = Block::allocate(4 << 20, true);
  ASSERT_TRUE(neighbour && block);
  std::memset(block.data(), 1, block.size());
  const std::byte* const data = block.data();
  EXPECT_EQ(resident(data, 4 << 20), (4u << 20) / 4096);
  block = Block();
  EXPECT_EQ(resident(data, 4 << 20), 0u);
}

TEST(Block, LargerThanAChunkAndMoved) {
  Block block = Block::allocate(200u << 20, true);
  ASSERT_TRUE(block);
  block.data()[block.size() - 1] = std::byte{7};
  Block moved = std::move(block);
  EXPECT_FALSE(block);  // NOLINT(bugprone-use-after-move): empty is what a moved block is
  EXPECT_EQ(moved.data()[moved.size() - 1], std::byte{7});
  EXPECT_FALSE(Block::allocate(std::uint64_t{1} << 60, true));
}

}  // namespace
}  // namespace mesh::backends::cpu
