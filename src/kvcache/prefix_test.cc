#include <gtest/gtest.h>

#include "kvcache/page_tables.h"

namespace mesh::kvcache {
namespace {

std::vector<TokenId> text(std::uint32_t tokens, TokenId from = 0) {
  std::vector<TokenId> out;
  for (std::uint32_t i = 0; i < tokens; ++i) out.push_back(from + static_cast<TokenId>(i));
  return out;
}

TEST(PageTables, ASecondSequenceSharesWhatTheFirstHasComputed) {
  PageTables tables(20);
  const auto tokens = text(200);
  const auto keys = page_keys(tokens, 99);
  ASSERT_EQ(keys.size(), 3u);
  EXPECT_EQ(*tables.open(SequenceId{1}, 256, keys), 0u);
  tables.computed(SequenceId{1}, tokens);
  EXPECT_EQ(*tables.open(SequenceId{2}, 256, keys), 192u);
  EXPECT_EQ(tables.used(), 5u);
}

}  // namespace
}  // namespace mesh::kvcache
