#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "base/random.h"

namespace mesh::engine {
namespace {

TEST(Greedy, TakesTheLargestAndTheLowerIdOfEquals) {
  EXPECT_EQ(greedy(std::vector<float>{1.0f}).token, 0);
  EXPECT_EQ(greedy(std::vector<float>{-3.0f, -1.0f, -2.0f}).token, 1);
  EXPECT_EQ(greedy(std::vector<float>{0.5f, 2.0f, 2.0f, 1.0f}).token, 1);
  EXPECT_EQ(greedy(std::vector<float>{-0.0f, 0.0f}).token, 0);
}

TEST(Greedy, ReportsEveryNonFiniteLogit) {
  const float bad[] = {std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::quiet_NaN()};
  for (float value : bad)
    for (std::size_t at = 0; at < 5; ++at) {
      std::vector<float> logits{1, 2, 3, 4, 5};
      EXPECT_TRUE(greedy(logits).finite);
      logits[at] = value;
      EXPECT_FALSE(greedy(logits).finite) << value << " at " << at;
    }
  EXPECT_TRUE(greedy(std::vector<float>{std::numeric_limits<float>::max(), 1e-45f}).finite);
}

TEST(Greedy, AgreesWithASearchFromTheEnd) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Prng random(seed);
    std::vector<float> logits(1 + random.below(50));
    for (float& x : logits) x = static_cast<float>(random.below(7)) - 3.0f;
    std::size_t best = logits.size() - 1;
    for (std::size_t i = logits.size(); i-- > 0;)
      if (logits[i] >= logits[best]) best = i;
    ASSERT_EQ(greedy(logits).token, static_cast<TokenId>(best)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace mesh::engine
