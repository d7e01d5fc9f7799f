#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/limits.h"
#include "base/random.h"
#include "kvcache/page_tables.h"

namespace mesh::kvcache {
namespace {

std::vector<std::uint32_t> numbers(std::span<const PageId> pages) {
  std::vector<std::uint32_t> out;
  for (PageId page : pages) out.push_back(page.value);
  return out;
}

TEST(BlockPool, HandsOutEveryPageButTheReservedOne) {
  BlockPool pool(5);
  EXPECT_EQ(pool.total(), 4u);
  std::vector<PageId> pages;
  EXPECT_FALSE(pool.take(5, pages));
  EXPECT_TRUE(pages.empty());
  EXPECT_TRUE(pool.take(4, pages));
  EXPECT_EQ(numbers(pages), (std::vector<std::uint32_t>{1, 2, 3, 4}));
  EXPECT_EQ(pool.used(), 4u);
  EXPECT_EQ(pool.free_pages(), 0u);
}

TEST(BlockPool, EmptyPoolsOwnNothing) {
  for (std::uint32_t pages : {0u, 1u}) {
    BlockPool pool(pages);
    std::vector<PageId> out;
    EXPECT_EQ(pool.total(), 0u);
    EXPECT_TRUE(pool.take(0, out));
    EXPECT_FALSE(pool.take(1, out));
  }
}

TEST(BlockPoolDeathTest, DoubleFreeAndReservedPageAreBugs) {
  BlockPool pool(4);
  std::vector<PageId> pages;
  ASSERT_TRUE(pool.take(2, pages));
  pool.give_back(PageId{1});
  EXPECT_DEATH(pool.give_back(PageId{1}), "free already");
  EXPECT_DEATH(pool.give_back(PageId{0}), "page 0 of 4");
  EXPECT_DEATH(pool.give_back(PageId{4}), "page 4 of 4");
}

TEST(PageTables, ReservesAllOrNothingAndNamesTheNumbers) {
  PageTables tables(4);
  ASSERT_TRUE(tables.reserve(SequenceId{7}, 65).ok());
  EXPECT_EQ(numbers(tables.pages(SequenceId{7})), (std::vector<std::uint32_t>{1, 2}));
  const Result<void> failed = tables.reserve(SequenceId{8}, 129);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code, Code::kResourceExhausted);
  EXPECT_EQ(failed.error().message, "3 KV pages wanted for 129 positions, 1 of 3 free");
  EXPECT_FALSE(tables.contains(SequenceId{8}));
  EXPECT_EQ(tables.used(), 2u);
}

TEST(PageTables, GrowsInPlaceAndNeverShrinks) {
  PageTables tables(10);
  ASSERT_TRUE(tables.reserve(SequenceId{1}, 64).ok());
  ASSERT_TRUE(tables.reserve(SequenceId{2}, 1).ok());
  ASSERT_TRUE(tables.reserve(SequenceId{1}, 200).ok());
  EXPECT_EQ(numbers(tables.pages(SequenceId{1})), (std::vector<std::uint32_t>{1, 3, 4, 5}));
  ASSERT_TRUE(tables.reserve(SequenceId{1}, 1).ok());
  EXPECT_EQ(tables.pages(SequenceId{1}).size(), 4u);
}

TEST(PageTables, ReleasedPagesComeBackInTheSameOrder) {
  PageTables tables(10);
  ASSERT_TRUE(tables.reserve(SequenceId{1}, 256).ok());
  const auto first = numbers(tables.pages(SequenceId{1}));
  EXPECT_TRUE(tables.release(SequenceId{1}));
  EXPECT_FALSE(tables.release(SequenceId{1}));
  EXPECT_EQ(tables.used(), 0u);
  ASSERT_TRUE(tables.reserve(SequenceId{2}, 256).ok());
  EXPECT_EQ(numbers(tables.pages(SequenceId{2})), first);
}

TEST(PageTables, RefusesNoPositionsAndTooManySequences) {
  PageTables tables(static_cast<std::uint32_t>(limits::kSequencesPerStage) + 10);
  EXPECT_EQ(tables.reserve(SequenceId{1}, 0).error().code, Code::kInvalidArgument);
  for (std::size_t i = 0; i < limits::kSequencesPerStage; ++i)
    ASSERT_TRUE(tables.reserve(SequenceId{i}, 1).ok());
  EXPECT_EQ(tables.reserve(SequenceId{1u << 20}, 1).error().code, Code::kResourceExhausted);
}

TEST(PageTables, HugeLengthsNeitherOverflowNorAllocate) {
  PageTables tables(3);
  EXPECT_EQ(pages_for(0xFFFFFFFFu), 0x4000000u);
  EXPECT_EQ(tables.reserve(SequenceId{1}, 0xFFFFFFFFu).error().code, Code::kResourceExhausted);
}

// Against a model: no page has two owners, counts add up, failures change nothing, and a second run
// with the same calls hands out the same pages.
void random_walk(std::uint64_t seed) {
  Prng random(seed);
  const auto pages = static_cast<std::uint32_t>(1 + random.below(40));
  PageTables tables(pages), twin(pages);
  std::map<std::uint64_t, std::uint32_t> owned;
  std::uint32_t used = 0;
  for (int step = 0; step < 400; ++step) {
    const SequenceId sequence{random.below(8)};
    if (random.below(3) == 0) {
      EXPECT_EQ(tables.release(sequence), owned.contains(sequence.value));
      twin.release(sequence);
      if (owned.contains(sequence.value)) used -= owned[sequence.value];
      owned.erase(sequence.value);
    } else {
      const auto positions = static_cast<std::uint32_t>(1 + random.below(700));
      const std::uint32_t held = owned.contains(sequence.value) ? owned[sequence.value] : 0;
      const std::uint32_t wanted = (positions + 63) / 64;
      const std::uint32_t more = wanted > held ? wanted - held : 0;
      const bool fits = more <= pages - 1 - used;
      ASSERT_EQ(tables.reserve(sequence, positions).ok(), fits);
      (void)twin.reserve(sequence, positions);
      if (fits) {
        owned[sequence.value] = held + more;
        used += more;
      }
    }
    ASSERT_EQ(tables.used(), used);
    ASSERT_EQ(tables.sequences(), owned.size());
    std::set<std::uint32_t> seen;
    for (const auto& [id, count] : owned) {
      const auto table = tables.pages(SequenceId{id});
      ASSERT_EQ(table.size(), count);
      ASSERT_EQ(numbers(table), numbers(twin.pages(SequenceId{id})));
      for (PageId page : table) {
        ASSERT_GT(page.value, 0u);
        ASSERT_LT(page.value, pages);
        ASSERT_TRUE(seen.insert(page.value).second) << "page " << page.value << " has two owners";
      }
    }
  }
  for (const auto& [id, count] : owned) EXPECT_TRUE(tables.release(SequenceId{id}));
  EXPECT_EQ(tables.used(), 0u);
}

TEST(PageTables, RandomWalksKeepEveryPageWithOneOwner) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    random_walk(seed);
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace mesh::kvcache
