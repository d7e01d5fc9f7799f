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

template <typename T>
std::size_t largest_index(std::span<const T> values) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < values.size(); ++i)
    if (values[i] > values[best]) best = i;
  return best;
}

double sum(std::span<const double> values) {
  double total = 0;
  for (double value : values) total += value;
  return total;
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

Sample greedy(std::span<const float> logits) {
  MESH_CHECK(!logits.empty(), "no logits");
  return {static_cast<TokenId>(largest_index(logits)), all_finite(logits)};
}

double sampling_draw(const SamplingParams& params, std::uint32_t position) {
  const auto low = static_cast<std::uint32_t>(params.seed);
  const auto high = static_cast<std::uint32_t>(params.seed >> 32);
  const std::array<std::uint32_t, 4> word =
      philox4x32({position, params.choice, 0, 0}, {low, high});
  const std::uint64_t bits = (std::uint64_t{word[1]} << 32) | word[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
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
  if (spec.params == nullptr) {
    out.token = static_cast<TokenId>(largest_index(logits));
    return out;
  }
  adjust(logits, spec);
  out.token = choose(spec);
  if (spec.params->logprobs >= 0) score(logits, spec.params.get(), out);
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
  left_.all = params.top_k == 0 || params.top_k >= adjusted_.size();
  if (!left_.all) {
    select_top(std::span<const double>(adjusted_), params.top_k, left_.ids);
    std::sort(left_.ids.begin(), left_.ids.end());
  }
  weigh(largest, per_temperature);
  if (params.top_p < 1.0f) keep_top_p(static_cast<double>(params.top_p), largest, per_temperature);
  if (params.min_p > 0.0f) keep_min_p(static_cast<double>(params.min_p));
  return draw(sampling_draw(params, spec.position));
}

void Sampler::weigh(double largest, double per_temperature) {
  left_.weights.resize(left_.all ? adjusted_.size() : left_.ids.size());
  for (std::size_t i = 0; i < left_.weights.size(); ++i)
    left_.weights[i] =
        (adjusted_[static_cast<std::size_t>(left_.id(i))] - largest) * per_temperature;
  ops::exact_exp_each(left_.weights, left_.weights);
}

// The candidates in the order of Before, until the sum of their weights reaches top_p of the sum of
// all.
void Sampler::keep_top_p(double top_p, double largest, double per_temperature) {
  const std::size_t count = left_.weights.size();
  const double total = sum(left_.weights);
  const double wanted = top_p * total;
  // Weights below exp(floor) sum to less than half of what may be left out, which is far more than
  // what rounding adds to either sum: the rest is a beginning of the order that is long enough.
  const double floor = ops::exact_log((1.0 - top_p) * 0.5 * total / static_cast<double>(count));
  ranked_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    const TokenId id = left_.id(i);
    const double adjusted = adjusted_[static_cast<std::size_t>(id)];
    if ((adjusted - largest) * per_temperature >= floor)
      ranked_.push_back({adjusted, left_.weights[i], id});
  }
  const auto before = [](const Ranked& a, const Ranked& b) {
    return a.adjusted > b.adjusted || (a.adjusted == b.adjusted && a.id < b.id);
  };
  const auto at = [&](std::size_t i) { return ranked_.begin() + static_cast<std::ptrdiff_t>(i); };
  double reached = 0;
  std::size_t kept = 0;
  for (std::size_t sorted = 0; kept < ranked_.size() && (kept == 0 || reached < wanted);) {
    if (kept == sorted) {
      const std::size_t end = std::min(ranked_.size(), std::max<std::size_t>(256, 8 * sorted));
      if (end < ranked_.size()) std::nth_element(at(sorted), at(end), ranked_.end(), before);
      std::sort(at(sorted), at(end), before);
      sorted = end;
    }
    reached += ranked_[kept++].weight;
  }
  ranked_.resize(kept);
  std::sort(ranked_.begin(), ranked_.end(),
            [](const Ranked& a, const Ranked& b) { return a.id < b.id; });
  left_.all = false;
  left_.ids.clear();
  left_.weights.clear();
  for (const Ranked& candidate : ranked_) {
    left_.ids.push_back(candidate.id);
    left_.weights.push_back(candidate.weight);
  }
}

// The weight of the likeliest is 1. A candidate of a smaller weight than min_p stays where it is,
// with weight 0: neither the sum nor the draw sees it.
void Sampler::keep_min_p(double min_p) {
  const double least = std::min(min_p, 1.0);
  for (double& weight : left_.weights)
    if (weight < least) weight = 0;
}

// Inverse of the cumulative weights: the first candidate whose sum exceeds unit · total. Such a one
// exists: unit ≤ 1 − 2⁻⁵³, so the rounded product is below the total.
TokenId Sampler::draw(double unit) const {
  const double target = unit * sum(left_.weights);
  double reached = 0;
  for (std::size_t i = 0; i < left_.weights.size(); ++i) {
    reached += left_.weights[i];
    if (reached > target) return left_.id(i);
  }
  MESH_CHECK(false, "a draw of {} beyond {}", target, reached);
}

void Sampler::score(std::span<const float> logits, const SamplingParams* params,
                    SampledToken& out) {
  const double largest = logits[largest_index(logits)];
  double total = 0;
  std::array<double, 512> block;
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
