#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>

#include "base/check.h"
#include "base/random.h"
#include "ops/exact_math.h"

namespace mesh::engine {
namespace {

// Values whose exponentials are taken at a time.
constexpr std::size_t kBlock = 512;

constexpr double kBanned = -std::numeric_limits<double>::infinity();

// The order of candidates: the larger value first, the lower id among equals. Total, so what
// std::sort and std::nth_element make of it is one result.
template <typename T>
struct Before {
  std::span<const T> values;
  bool operator()(TokenId a, TokenId b) const {
    const T x = values[static_cast<std::size_t>(a)], y = values[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  }
};

// The `count` first ids in the order of Before, in no order of their own. count ≤ values.size().
// One pass with a buffer of 2·count ids, cut back whenever it is full: an id that comes later and
// equals the worst one kept ranks behind it.
template <typename T>
void select_top(std::span<const T> values, std::size_t count, std::vector<TokenId>& out) {
  out.clear();
  if (count == 0) return;
  const Before<T> before{values};
  const auto cut = [&] {
    std::nth_element(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(count - 1), out.end(),
                     before);
    out.resize(count);
  };
  const std::size_t capacity = std::max<std::size_t>(2 * count, 64);
  bool bounded = false;
  T worst{};
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (bounded && !(values[i] > worst)) continue;
    out.push_back(static_cast<TokenId>(i));
    if (out.size() < capacity) continue;
    cut();
    worst = values[static_cast<std::size_t>(out[count - 1])];
    bounded = true;
  }
  if (out.size() > count) cut();
}

// Maximum by lanes, of which the compiler makes vector code.
template <typename T>
T maximum(std::span<const T> values) {
  constexpr std::size_t kLanes = 16;
  std::array<T, kLanes> lanes;
  lanes.fill(values.front());
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes)
    for (std::size_t j = 0; j < kLanes; ++j)
      lanes[j] = lanes[j] < values[i + j] ? values[i + j] : lanes[j];
  for (; i < values.size(); ++i) lanes[0] = lanes[0] < values[i] ? values[i] : lanes[0];
  return *std::max_element(lanes.begin(), lanes.end());
}

// The first block that reaches the maximum, and its first value that does.
template <typename T>
std::size_t largest_index(std::span<const T> values) {
  std::size_t block = 0;
  T most = values.front();
  for (std::size_t i = 0; i < values.size(); i += kBlock) {
    const T here = maximum(values.subspan(i, std::min(kBlock, values.size() - i)));
    if (!(here > most)) continue;
    most = here;
    block = i;
  }
  while (values[block] != most) ++block;
  return block;
}

// Whether the largest logit wins and nothing changes a logit before.
bool is_greedy(const SampleSpec& spec) {
  if (spec.params == nullptr) return true;
  const SamplingParams& params = *spec.params;
  return params.temperature == 0.0f && params.logit_bias.empty() && !params.penalises() &&
         (spec.drawn >= params.min_tokens || params.stop_ids.empty());
}

// Weights are integers, so that no order of additions matters. The largest is kOne; a vocabulary of
// limits::kVocabulary of them sums to 2⁶² at most.
constexpr double kOne = 0x1p+40;

std::uint64_t sum(std::span<const std::uint64_t> values) {
  std::uint64_t total = 0;
  for (std::uint64_t value : values) total += value;
  return total;
}

// The integer nearest to x in [0, 2⁵¹], by the addition that leaves no fraction bits.
std::uint64_t nearest(double x) {
  return std::bit_cast<std::uint64_t>(x + 0x1p+52) - std::bit_cast<std::uint64_t>(0x1p+52);
}

}  // namespace

bool all_finite(std::span<const float> values) {
  // Integer maximum instead of isfinite(): the compiler makes vector code of it.
  std::uint32_t largest = 0;
  for (float value : values) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu;
    largest = largest > magnitude ? largest : magnitude;
  }
  return largest < 0x7F800000u;
}

TokenId greedy(std::span<const float> logits) {
  MESH_CHECK(!logits.empty(), "no logits");
  return static_cast<TokenId>(largest_index(logits));
}

std::uint64_t sampling_bits(const SamplingParams& params, std::uint32_t position) {
#if defined(MESH_MUTATE_KEY_WITHOUT_POSITION)
  position = 0;
#elif defined(MESH_MUTATE_DRAWS_IN_ORDER)
  static std::uint32_t drawn = 0;
  position = drawn++;
#endif
  const auto low = static_cast<std::uint32_t>(params.seed);
  const auto high = static_cast<std::uint32_t>(params.seed >> 32);
  const std::array<std::uint32_t, 4> word =
      philox4x32({position, params.choice, 0, 0}, {low, high});
  return (std::uint64_t{word[1]} << 32) | word[0];
}

SampledToken Sampler::sample(std::span<const float> logits, const SampleSpec& spec) {
  MESH_CHECK(!logits.empty(), "no logits");
  SampledToken out;
  if (spec.given) {
    MESH_CHECK(*spec.given >= 0 && static_cast<std::size_t>(*spec.given) < logits.size(),
               "token {} of {}", *spec.given, logits.size());
    out.token = *spec.given;
    score(logits, spec.params.get(), out);
    return out;
  }
  if (is_greedy(spec)) {
    out.token = greedy(logits);
  } else {
    adjust(logits, spec);
    out.token = choose(spec);
  }
  if (spec.params != nullptr && spec.params->logprobs >= 0) score(logits, spec.params.get(), out);
  return out;
}

void Sampler::adjust(std::span<const float> logits, const SampleSpec& spec) {
  const SamplingParams& params = *spec.params;
  adjusted_.assign(logits.begin(), logits.end());
  const auto known = [&](TokenId id) {
    return id >= 0 && static_cast<std::size_t>(id) < logits.size();
  };
  for (const auto& [id, bias] : params.logit_bias)
    if (known(id)) adjusted_[static_cast<std::size_t>(id)] += static_cast<double>(bias);
  if (spec.drawn < params.min_tokens)
    for (TokenId id : params.stop_ids)
      if (known(id)) adjusted_[static_cast<std::size_t>(id)] = kBanned;
  if (params.penalises() && spec.history != nullptr) penalise(params, *spec.history);
}

void Sampler::penalise(const SamplingParams& params, const TokenHistory& history) {
  const auto known = [&](TokenId id) {
    return id >= 0 && static_cast<std::size_t>(id) < adjusted_.size();
  };
  if (params.repetition_penalty != 1.0f) {
    const double penalty = params.repetition_penalty;
    const auto repeat = [&](TokenId id) {
      if (!known(id)) return;
      double& value = adjusted_[static_cast<std::size_t>(id)];
      value = value > 0 ? value / penalty : value * penalty;
    };
    for (TokenId id : history.prompt) repeat(id);
    for (const auto& [id, count] : history.output)
      if (!std::binary_search(history.prompt.begin(), history.prompt.end(), id)) repeat(id);
  }
  if (params.presence_penalty == 0.0f && params.frequency_penalty == 0.0f) return;
  const double presence = params.presence_penalty, frequency = params.frequency_penalty;
  for (const auto& [id, count] : history.output) {
    if (!known(id)) continue;
    double& value = adjusted_[static_cast<std::size_t>(id)];
    value = (value - frequency * static_cast<double>(count)) - presence;
  }
}

TokenId Sampler::choose(const SampleSpec& spec) {
  const SamplingParams& params = *spec.params;
  const std::size_t best = largest_index(std::span<const double>(adjusted_));
  const double largest = adjusted_[best];
  if (params.temperature == 0.0f || largest == kBanned) return static_cast<TokenId>(best);
  const double per_temperature = 1.0 / static_cast<double>(params.temperature);
  all_ = params.top_k == 0 || params.top_k >= adjusted_.size();
  if (!all_) {
    select_top(std::span<const double>(adjusted_), params.top_k, ids_);
    std::sort(ids_.begin(), ids_.end());
  }
  weigh(largest, per_temperature);
  if (params.top_p < 1.0f) keep_top_p(static_cast<double>(params.top_p));
  if (params.min_p > 0.0f) keep_min_p(static_cast<double>(params.min_p));
  return draw(sampling_bits(params, spec.position));
}

void Sampler::weigh(double largest, double per_temperature) {
  const std::size_t count = candidates();
  below_.resize(count);
  weights_.resize(count);
  for (std::size_t i = 0; i < count; ++i)
    below_[i] = (adjusted_[static_cast<std::size_t>(id(i))] - largest) * per_temperature;
  std::array<double, kBlock> block;
  for (std::size_t i = 0; i < count; i += kBlock) {
    const std::size_t size = std::min(kBlock, count - i);
    ops::exact_exp_each(std::span(below_).subspan(i, size), std::span(block).first(size));
    for (std::size_t j = 0; j < size; ++j) weights_[i + j] = nearest(block[j] * kOne);
  }
}

// The candidates in the order of Before, until their weights sum to top_p of the sum of all. Sums
// over buckets of that order tell in which bucket the last one lies; only that one is sorted.
void Sampler::keep_top_p(double top_p) {
  constexpr std::size_t kBuckets = 1024;
  const auto wanted = static_cast<std::uint64_t>(top_p * static_cast<double>(sum(weights_)));
  double lowest = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i)
    if (weights_[i] > 0 && below_[i] < lowest) lowest = below_[i];
  // Candidates of weight 0 have no bucket.
  const double per_nat = lowest < 0 ? static_cast<double>(kBuckets - 1) / -lowest : 0;
  const auto bucket = [&](std::size_t i) {
    return static_cast<std::size_t>(std::min(kBuckets - 1.0, -below_[i] * per_nat));
  };
  std::array<std::uint64_t, kBuckets> sums{};
  for (std::size_t i = 0; i < weights_.size(); ++i)
    if (weights_[i] > 0) sums[bucket(i)] += weights_[i];
  std::size_t last = 0;
  std::uint64_t reached = 0;
  while (last + 1 < kBuckets && reached + sums[last] < wanted) reached += sums[last++];

  ranked_.clear();
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i] == 0) continue;
    const std::size_t at = bucket(i);
    if (at > last) weights_[i] = 0;
    if (at == last) ranked_.push_back({adjusted_[static_cast<std::size_t>(id(i))], i});
  }
  std::sort(ranked_.begin(), ranked_.end(), [](const Ranked& a, const Ranked& b) {
    return a.adjusted > b.adjusted || (a.adjusted == b.adjusted && a.index < b.index);
  });
  bool any = last > 0;
  for (const Ranked& candidate : ranked_) {
    std::uint64_t& weight = weights_[candidate.index];
    if (any && reached >= wanted)
      weight = 0;
    else
      reached += weight;
    any = true;
  }
}

void Sampler::keep_min_p(double min_p) {
  const std::uint64_t least = nearest(std::min(min_p, 1.0) * kOne);
  for (std::uint64_t& weight : weights_)
    if (weight < least) weight = 0;
}

// Inverse of the cumulative weights: the first candidate whose sum exceeds bits/2⁶⁴ of the total.
TokenId Sampler::draw(std::uint64_t bits) const {
  const auto target =
      static_cast<std::uint64_t>((static_cast<mesh_u128>(bits) * sum(weights_)) >> 64);
  std::uint64_t reached = 0;
  for (std::size_t i = 0; i < weights_.size(); ++i) {
    reached += weights_[i];
    if (reached > target) return id(i);
  }
  MESH_CHECK(false, "a draw of {} beyond {}", target, reached);
}

void Sampler::score(std::span<const float> logits, const SamplingParams* params,
                    SampledToken& out) {
  const double largest = logits[largest_index(logits)];
  double total = 0;
  std::array<double, kBlock> block;
  for (std::size_t i = 0; i < logits.size(); i += block.size()) {
    const std::size_t count = std::min(block.size(), logits.size() - i);
    for (std::size_t j = 0; j < count; ++j) block[j] = static_cast<double>(logits[i + j]) - largest;
    ops::exact_exp_each(std::span(block).first(count), std::span(block).first(count));
    for (std::size_t j = 0; j < count; ++j) total += block[j];
  }
  const double log_total = ops::exact_log(total);
  const auto logprob = [&](TokenId id) {
    const double logit = logits[static_cast<std::size_t>(id)];
    return static_cast<float>((logit - largest) - log_total);
  };
  out.logprob = logprob(out.token);
  if (params == nullptr || params->logprobs <= 0) return;
  select_top(logits, std::min(logits.size(), static_cast<std::size_t>(params->logprobs)), top_);
  std::sort(top_.begin(), top_.end(), Before<float>{logits});
  for (TokenId id : top_) out.top.push_back({id, logprob(id)});
}

}  // namespace mesh::engine
