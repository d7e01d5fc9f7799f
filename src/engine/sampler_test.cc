#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "base/hash.h"
#include "base/random.h"
#include "ops/exact_math.h"

namespace mesh::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Request {
  SamplingParams params;
  TokenHistory history;
  std::uint32_t position = 5;
  std::uint32_t drawn = 0;
  std::optional<TokenId> given;

  SampleSpec spec() const {
    SampleSpec spec;
    spec.position = position;
    spec.drawn = drawn;
    spec.params = std::make_shared<const SamplingParams>(params);
    spec.history = std::make_shared<const TokenHistory>(history);
    spec.given = given;
    return spec;
  }
};

SampledToken sample(const std::vector<float>& logits, const Request& request) {
  return Sampler().sample(logits, request.spec());
}

// Ids that come up in `count` draws at different positions, and how often.
std::map<TokenId, int> draws(const std::vector<float>& logits, Request request, int count) {
  std::map<TokenId, int> found;
  Sampler sampler;
  for (int i = 0; i < count; ++i) {
    request.position = static_cast<std::uint32_t>(i);
    ++found[sampler.sample(logits, request.spec()).token];
  }
  return found;
}

std::vector<TokenId> drawn_ids(const std::vector<float>& logits, const Request& request) {
  std::vector<TokenId> ids;
  for (const auto& [id, count] : draws(logits, request, 4000)) ids.push_back(id);
  return ids;
}

using Ids = std::vector<TokenId>;

TEST(Greedy, TakesTheLargestAndTheLowerIdOfEquals) {
  EXPECT_EQ(greedy(std::vector<float>{1.0f}), 0);
  EXPECT_EQ(greedy(std::vector<float>{-3.0f, -1.0f, -2.0f}), 1);
  EXPECT_EQ(greedy(std::vector<float>{0.5f, 2.0f, 2.0f, 1.0f}), 1);
  EXPECT_EQ(greedy(std::vector<float>{-0.0f, 0.0f}), 0);
}

TEST(AllFinite, SeesEveryLogit) {
  const float bad[] = {std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::quiet_NaN()};
  for (float value : bad)
    for (std::size_t at = 0; at < 5; ++at) {
      std::vector<float> logits{1, 2, 3, 4, 5};
      EXPECT_TRUE(all_finite(logits));
      logits[at] = value;
      EXPECT_FALSE(all_finite(logits)) << value << " at " << at;
    }
  EXPECT_TRUE(all_finite(std::vector<float>{std::numeric_limits<float>::max(), 1e-45f}));
}

TEST(Greedy, AgreesWithASearchFromTheEnd) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Prng random(seed);
    std::vector<float> logits(1 + random.below(seed % 4 == 0 ? 2000 : 50));  // several blocks
    for (float& x : logits) x = static_cast<float>(random.below(7)) - 3.0f;
    std::size_t best = logits.size() - 1;
    for (std::size_t i = logits.size(); i-- > 0;)
      if (logits[i] >= logits[best]) best = i;
    ASSERT_EQ(greedy(logits), static_cast<TokenId>(best)) << "seed " << seed;
  }
}

// --- steps, each alone, at temperature 0 where the result can be read off

TEST(Sampler, WithoutASpecOrAtTemperatureZeroItIsGreedy) {
  const std::vector<float> logits{0.5f, 2.0f, 2.0f, 1.0f};
  EXPECT_EQ(Sampler().sample(logits, SampleSpec()), (SampledToken{1, 0.0f, {}}));
  EXPECT_EQ(sample(logits, {}), (SampledToken{1, 0.0f, {}}));
}

TEST(Sampler, BiasIsAdded) {
  Request r;
  r.params.logit_bias = {{0, 1.75f}};
  EXPECT_EQ(sample({0.5f, 2.0f, 1.0f}, r).token, 0);
  r.params.logit_bias = {{1, -1.25f}, {2, -0.125f}};
  EXPECT_EQ(sample({0.5f, 2.0f, 1.0f}, r).token, 2);  // 0.5, 0.75, 0.875
}

TEST(Sampler, StopIdsAreBannedUntilEnoughIsDrawn) {
  Request r;
  r.params.stop_ids = {1, 3};
  r.params.min_tokens = 4;
  r.params.logit_bias = {{1, 100.0f}};  // no bias lifts the ban
  r.drawn = 3;
  const std::vector<float> logits{0.5f, 2.0f, 1.0f, 9.0f};
  EXPECT_EQ(sample(logits, r).token, 2);
  r.drawn = 4;
  EXPECT_EQ(sample(logits, r).token, 1);
  r.drawn = 0;
  r.params.temperature = 1e6f;
  EXPECT_EQ(drawn_ids(logits, r), (Ids{0, 2}));
}

TEST(Sampler, RepetitionDividesPositiveAndMultipliesOtherLogits) {
  Request r;
  r.params.repetition_penalty = 2.0f;
  r.history.prompt = {0, 2};
  r.history.output = {{2, 3}};                           // in both: penalised once
  EXPECT_EQ(sample({4.0f, 1.5f, 3.5f}, r).token, 0);     // 2, 1.5, 1.75
  EXPECT_EQ(sample({4.0f, 2.5f, 1.0f}, r).token, 1);     // 2, 2.5, 0.5
  EXPECT_EQ(sample({-1.0f, -1.5f, -9.0f}, r).token, 1);  // -2, -1.5, -18
  r.params.repetition_penalty = 0.5f;
  EXPECT_EQ(sample({4.0f, 7.0f, 0.0f}, r).token, 0);  // 8, 7, 0
}

TEST(Sampler, PresenceAndFrequencyLookAtTheOutputOnly) {
  Request r;
  r.history.prompt = {0};
  r.history.output = {{1, 3}, {2, 1}};
  r.params.presence_penalty = 1.0f;
  EXPECT_EQ(sample({1.0f, 1.9f, 1.5f}, r).token, 0);  // 1, 0.9, 0.5
  EXPECT_EQ(sample({1.0f, 2.5f, 1.5f}, r).token, 1);
  r.params.presence_penalty = 0.0f;
  r.params.frequency_penalty = 0.5f;
  EXPECT_EQ(sample({0.5f, 2.25f, 1.5f}, r).token, 2);  // 0.5, 0.75, 1
  r.params.presence_penalty = -2.0f;
  EXPECT_EQ(sample({2.0f, 2.0f, 0.0f}, r).token, 1);  // 2, 2.5, 1.5
}

TEST(Sampler, TopKKeepsTheLowerIdsOfEquals) {
  Request r;
  r.params.temperature = 1e6f;
  r.params.top_k = 3;
  EXPECT_EQ(drawn_ids({1, 2, 2, 3, 2, 0}, r), (Ids{1, 2, 3}));
  r.params.top_k = 1;
  EXPECT_EQ(drawn_ids({1, 3, 2, 3}, r), (Ids{1}));
  r.params.top_k = 9;
  EXPECT_EQ(drawn_ids({1, 3, 2, 3}, r), (Ids{0, 1, 2, 3}));
}

// Probabilities 0.1, 0.4, 0.3, 0.2.
const std::vector<float> kTenths{std::log(1.0f), std::log(4.0f), std::log(3.0f), std::log(2.0f)};

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesP) {
  Request r;
  r.params.temperature = 1;
  const auto kept = [&](float p) {
    r.params.top_p = p;
    return drawn_ids(kTenths, r);
  };
  EXPECT_EQ(kept(1e-6f), (Ids{1}));
  EXPECT_EQ(kept(0.39f), (Ids{1}));
  EXPECT_EQ(kept(0.41f), (Ids{1, 2}));
  EXPECT_EQ(kept(0.71f), (Ids{1, 2, 3}));
  EXPECT_EQ(kept(0.89f), (Ids{1, 2, 3}));
  EXPECT_EQ(kept(0.91f), (Ids{0, 1, 2, 3}));
  r.params.top_k = 2;  // of 4/7 and 3/7
  EXPECT_EQ(kept(0.57f), (Ids{1}));
  EXPECT_EQ(kept(0.58f), (Ids{1, 2}));
}

TEST(Sampler, TopPTakesEqualsByIdAndOnlyAsManyAsNeeded) {
  Request r;
  r.params.temperature = 1;
  r.params.top_p = 0.5f;
  EXPECT_EQ(drawn_ids({7, 7, 7, 7}, r), (Ids{0, 1}));
  r.params.top_p = 0.51f;
  EXPECT_EQ(drawn_ids({7, 7, 7, 7}, r), (Ids{0, 1, 2}));
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  Request r;
  r.params.temperature = 1;
  const auto kept = [&](float p) {
    r.params.min_p = p;
    return drawn_ids(kTenths, r);
  };
  EXPECT_EQ(kept(0.2f), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept(0.3f), (Ids{1, 2, 3}));
  EXPECT_EQ(kept(0.7f), (Ids{1, 2}));
  EXPECT_EQ(kept(1.0f), (Ids{1}));
  r.params.temperature = 1000;  // the temperature comes first: all are nearly equal
  EXPECT_EQ(kept(0.9f), (Ids{0, 1, 2, 3}));
}

TEST(Sampler, FiltersApplyOneAfterAnother) {
  Request r;
  r.params.temperature = 1;
  r.params.top_k = 3;     // 4, 3, 2 of 9
  r.params.top_p = 0.7f;  // 4 + 3 of 9 reach it, 7 of 10 only just would
  r.params.min_p = 0.8f;  // 3 of 4 is less
  EXPECT_EQ(drawn_ids(kTenths, r), (Ids{1}));
  r.params.min_p = 0.7f;
  EXPECT_EQ(drawn_ids(kTenths, r), (Ids{1, 2}));
}

// --- draws

TEST(Sampler, TheDrawIsTheInverseOfTheCumulativeWeightsById) {
  Request r;
  r.params.temperature = 1;
  r.params.seed = 0x123456789ABCDEF0ull;
  for (r.params.choice = 0; r.params.choice < 3; ++r.params.choice)
    for (r.position = 0; r.position < 500; ++r.position) {
      const double u = static_cast<double>(sampling_bits(r.params, r.position)) * 0x1p-64;
      const double borders[] = {0.1, 0.5, 0.8, 1.0};
      TokenId expected = 0;
      while (u > borders[expected]) ++expected;
      if (std::fabs(u - borders[expected]) < 1e-6) continue;
      ASSERT_EQ(sample(kTenths, r).token, expected) << u;
    }
}

TEST(Sampler, SeedChoiceAndPositionMakeTheDraw) {
  SamplingParams params;
  params.seed = 7;
  // Philox4x32-10 of counter {3, 0, 0, 0} and key {7, 0}, from an independent implementation.
  EXPECT_EQ(sampling_bits(params, 3), 0x40086B6F63E41616ull);
  const std::uint64_t first = sampling_bits(params, 3);
  EXPECT_NE(sampling_bits(params, 4), first);
  params.choice = 1;
  EXPECT_NE(sampling_bits(params, 3), first);
  params.choice = 0;
  params.seed += std::uint64_t{1} << 32;
  EXPECT_NE(sampling_bits(params, 3), first);
}

TEST(Sampler, DrawsFollowSoftmax) {
  const std::uint64_t seed = 20;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Prng random(seed);
  for (float temperature : {0.5f, 1.0f, 2.0f}) {
    std::vector<float> logits(40);
    for (float& x : logits) x = static_cast<float>(random.range(-2, 2));
    Request r;
    r.params.temperature = temperature;
    r.params.seed = random.next();
    const int count = 40'000;
    const auto found = draws(logits, r, count);
    std::vector<double> p(logits.size());
    for (std::size_t i = 0; i < p.size(); ++i)
      p[i] = std::exp(static_cast<double>(logits[i]) / static_cast<double>(temperature));
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    double chi = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      const double wanted = count * p[i] / total;
      const auto at = found.find(static_cast<TokenId>(i));
      const double got = at == found.end() ? 0 : at->second;
      chi += (got - wanted) * (got - wanted) / wanted;
    }
    // 39 degrees of freedom: mean 39, above 80 with a probability of 1e-4.
    EXPECT_LT(chi, 80) << "temperature " << temperature;
    EXPECT_GT(chi, 10) << "temperature " << temperature;
  }
}

// --- edges

TEST(Sampler, OneIdOnly) {
  Request r;
  r.params.temperature = 1;
  r.params.top_k = 1;
  r.params.top_p = 0.5f;
  r.params.min_p = 1;
  r.params.logprobs = 3;
  EXPECT_EQ(sample({-4.0f}, r), (SampledToken{0, 0.0f, {{0, 0.0f}}}));
  r.params.stop_ids = {0};
  r.params.min_tokens = 9;  // everything banned: the lowest id
  EXPECT_EQ(sample({-4.0f}, r).token, 0);
}

TEST(Sampler, HugeNumbersNeverOverflow) {
  constexpr float kMost = std::numeric_limits<float>::max();
  constexpr float kLeast = std::numeric_limits<float>::denorm_min();
  Request r;
  r.history.prompt = {0, 1};
  r.history.output = {{1, 0xFFFFFFFFu}, {2, 1}};
  r.params.presence_penalty = 2;
  r.params.frequency_penalty = -2;
  r.params.logit_bias = {{2, kMost}};
  for (float penalty : {kLeast, kMost})
    for (float temperature : {0.0f, kLeast, 1.0f, kMost}) {
      r.params.repetition_penalty = penalty;
      r.params.temperature = temperature;
      const TokenId token = sample({kMost, -kMost, kMost, 0.0f}, r).token;
      // Penalised: 0 has kMost / penalty, 2 twice that, 3 is 0 and 1 far below.
      if (temperature < 1 || (penalty < 1 && temperature == 1)) {
        EXPECT_EQ(token, 2) << temperature;
      } else {
        EXPECT_TRUE(token == 0 || token == 2 || token == 3) << token;
      }
    }
}

TEST(Sampler, MinusInfinityIsNeverDrawnWhileAnotherIsLeft) {
  Request r;
  r.params.temperature = 1e30f;
  EXPECT_EQ(drawn_ids({-kInf, 3.0f, -kInf, 1.0f}, r), (Ids{1, 3}));
  r.params.top_k = 3;
  r.params.top_p = 0.999f;
  EXPECT_EQ(drawn_ids({-kInf, 3.0f, -kInf, 1.0f}, r), (Ids{1, 3}));
}

TEST(Sampler, IdsOutsideTheVocabularyChangeNothing) {
  Request r;
  r.params.temperature = 1;
  r.params.repetition_penalty = 1.5f;
  r.params.presence_penalty = 1;
  const SampledToken expected = sample(kTenths, r);
  for (TokenId bad :
       {-1, 4, 5, std::numeric_limits<TokenId>::max(), std::numeric_limits<TokenId>::min()}) {
    r.params.logit_bias.push_back({bad, 5.0f});
    r.params.stop_ids.push_back(bad);
    r.history.prompt.push_back(bad);
    r.history.output[bad] = 3;
  }
  r.params.min_tokens = 100;
  EXPECT_EQ(sample(kTenths, r), expected);
}

// --- log-probabilities

TEST(Sampler, LogprobsAreThoseOfTheModelWhateverTheSteps) {
  Request r;
  r.params.temperature = 0.5f;
  r.params.logit_bias = {{0, 50.0f}};
  r.params.logprobs = 2;
  const SampledToken out = sample(kTenths, r);
  EXPECT_EQ(out.token, 0);
  EXPECT_FLOAT_EQ(out.logprob, std::log(0.1f));
  ASSERT_EQ(out.top.size(), 2u);
  EXPECT_EQ(out.top[0].token, 1);
  EXPECT_FLOAT_EQ(out.top[0].logprob, std::log(0.4f));
  EXPECT_EQ(out.top[1].token, 2);
  r.params.logprobs = 0;
  EXPECT_TRUE(sample(kTenths, r).top.empty());
  EXPECT_EQ(sample(kTenths, r).logprob, out.logprob);
  r.params.logprobs = -1;
  EXPECT_EQ(sample(kTenths, r), (SampledToken{0, 0.0f, {}}));
}

TEST(Sampler, TopListsEqualsByIdAndNoMoreThanThereAre) {
  Request r;
  r.params.logprobs = 3;
  const auto ids = [&](const std::vector<float>& logits) {
    Ids out;
    for (const TokenScore& score : sample(logits, r).top) out.push_back(score.token);
    return out;
  };
  EXPECT_EQ(ids({1, 2, 1, 2, 1}), (Ids{1, 3, 0}));
  EXPECT_EQ(ids({1, 2}), (Ids{1, 0}));
}

TEST(Sampler, AGivenTokenIsOnlyScored) {
  Request r;
  r.params.temperature = 1;
  r.params.logprobs = 1;
  r.given = 3;
  const SampledToken out = sample(kTenths, r);
  EXPECT_EQ(out.token, 3);
  EXPECT_FLOAT_EQ(out.logprob, std::log(0.2f));
  EXPECT_EQ(out.top.at(0).token, 1);
  r.params.logprobs = -1;
  EXPECT_EQ(sample(kTenths, r), (SampledToken{3, out.logprob, {}}));
}

// --- against a plain implementation, and fixed for all time

// The definition of docs/numerics.md with complete sorts and no short cuts.
TokenId plain(const std::vector<float>& logits, const Request& r) {
  const SamplingParams& p = r.params;
  std::vector<double> a(logits.begin(), logits.end());
  for (auto [id, bias] : p.logit_bias) a[static_cast<std::size_t>(id)] += static_cast<double>(bias);
  std::vector<TokenId> order(a.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId x, TokenId y) {
    return a[static_cast<std::size_t>(x)] > a[static_cast<std::size_t>(y)];
  });
  const double largest = a[static_cast<std::size_t>(order[0])];
  if (p.top_k > 0 && p.top_k < order.size()) order.resize(p.top_k);
  const auto weight = [&](TokenId id) {
    double x =
        (a[static_cast<std::size_t>(id)] - largest) * (1.0 / static_cast<double>(p.temperature));
    ops::exact_exp_each({&x, 1}, {&x, 1});
    return static_cast<std::uint64_t>(std::nearbyint(x * 0x1p+40));
  };
  const auto sum = [&](const std::vector<TokenId>& ids) {
    std::uint64_t total = 0;
    for (TokenId id : ids) total += weight(id);
    return total;
  };
  if (p.top_p < 1) {
    const auto wanted =
        static_cast<std::uint64_t>(static_cast<double>(p.top_p) * static_cast<double>(sum(order)));
    std::uint64_t reached = weight(order[0]);
    std::size_t kept = 1;
    while (kept < order.size() && reached < wanted) reached += weight(order[kept++]);
    order.resize(kept);
  }
  const double least = std::nearbyint(static_cast<double>(p.min_p) * 0x1p+40);
  std::erase_if(order, [&](TokenId id) { return static_cast<double>(weight(id)) < least; });
  std::sort(order.begin(), order.end());
  const auto target = static_cast<std::uint64_t>(
      (static_cast<mesh_u128>(sampling_bits(p, r.position)) * sum(order)) >> 64);
  std::uint64_t reached = 0;
  for (TokenId id : order)
    if ((reached += weight(id)) > target) return id;
  return -1;
}

struct Case {
  std::vector<float> logits;
  Request request;
};

Case random_case(std::uint64_t seed) {
  Prng random(seed);
  const std::size_t sizes[] = {1, 2, 5, 63, 320, 3000};
  Case c;
  c.logits.resize(sizes[random.below(6)]);
  const bool ties = random.below(3) == 0;
  const double spread = random.range(0.1, 12);
  for (float& x : c.logits)
    x = ties ? static_cast<float>(random.below(5))
             : static_cast<float>(random.range(-spread, spread));
  SamplingParams& p = c.request.params;
  p.temperature = static_cast<float>(random.range(0.05, 3));
  if (random.below(2) == 0) p.top_k = static_cast<std::uint32_t>(random.below(700));
  if (random.below(2) == 0) p.top_p = static_cast<float>(random.range(0.01, 1));
  if (random.below(8) == 0) p.top_p = 0x1.fffffep-1f;
  if (random.below(3) == 0) p.min_p = static_cast<float>(random.range(0, 0.5));
  p.seed = random.next();
  p.choice = static_cast<std::uint32_t>(random.below(3));
  p.logprobs = static_cast<std::int32_t>(random.below(8)) - 1;
  if (random.below(2) == 0)
    p.logit_bias = {{static_cast<TokenId>(random.below(c.logits.size())), 3.5f}};
  c.request.position = static_cast<std::uint32_t>(random.below(5000));
  return c;
}

TEST(Sampler, AgreesWithThePlainDefinitionAndKeepsNothingBetweenCalls) {
  Sampler kept;
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    const Case c = random_case(seed);
    const SampledToken out = kept.sample(c.logits, c.request.spec());
    ASSERT_EQ(out.token, plain(c.logits, c.request)) << "seed " << seed;
    ASSERT_EQ(out, kept.sample(c.logits, c.request.spec())) << "seed " << seed;
    ASSERT_EQ(out, sample(c.logits, c.request)) << "seed " << seed;
  }
}

// A vocabulary as large as they come, with a flat and a steep distribution.
TEST(Sampler, AgreesWithThePlainDefinitionOnLargeVocabularies) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    Case c = random_case(seed);
    Prng random(seed);
    c.logits.resize(60'000);
    const double spread = seed % 2 == 0 ? 0.5 : 15;
    for (float& x : c.logits) x = static_cast<float>(random.range(-spread, spread));
    if (seed % 3 == 0) c.request.params.top_k = 0;
    ASSERT_EQ(sample(c.logits, c.request).token, plain(c.logits, c.request)) << "seed " << seed;
  }
}

// Part of class cpu/1: another compiler or machine gives these bits, another definition needs
// another class.
TEST(Sampler, TokensAndLogprobBitsAreFixed) {
  Hasher hasher;
  Sampler sampler;
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    Case c = random_case(seed);
    Prng random(~seed);
    SamplingParams& p = c.request.params;
    if (random.below(2) == 0) p.repetition_penalty = static_cast<float>(random.range(0.8, 1.5));
    if (random.below(2) == 0) p.presence_penalty = static_cast<float>(random.range(-2, 2));
    if (random.below(2) == 0) p.frequency_penalty = static_cast<float>(random.range(-2, 2));
    for (int i = 0; i < 6; ++i) {
      c.request.history.prompt.push_back(i * 3);
      ++c.request.history.output[static_cast<TokenId>(random.below(c.logits.size()))];
    }
    const SampledToken out = sampler.sample(c.logits, c.request.spec());
    hasher.update_value(out.token);
    hasher.update_value(std::bit_cast<std::uint32_t>(out.logprob));
    for (const TokenScore& score : out.top) {
      hasher.update_value(score.token);
      hasher.update_value(std::bit_cast<std::uint32_t>(score.logprob));
    }
  }
  EXPECT_EQ(hasher.digest(), 0x3B0684896FBC15CCull);
}

}  // namespace
}  // namespace mesh::engine
