#pragma once
// Choice of the next token from a row of logits. The numbers are part of class cpu/1
// (docs/numerics.md, "Sampling"): same logits and spec, same token and log-probability bits, on
// every machine.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/sampling.h"
#include "engine/compute.h"

namespace mesh::engine {

// Id of the largest logit, the lowest id among equals. `logits` holds at least one value, none NaN.
TokenId greedy(std::span<const float> logits);

// Whether every value is finite.
bool all_finite(std::span<const float> values);

// 64 random bits that decide the draw of the token at `position`.
std::uint64_t sampling_bits(const SamplingParams& params, std::uint32_t position);

// Keeps memory for rows of one vocabulary from call to call; a result depends on the arguments
// alone. One thread at a time.
class Sampler {
 public:
  // `logits` [vocabulary], at least one, finite or -inf (never chosen while another is left), not
  // all -inf. Ids of bias, stop ids and history that the vocabulary lacks change nothing;
  // spec.given lies within it. When every id is banned the lowest is taken.
  SampledToken sample(std::span<const float> logits, const SampleSpec& spec);

 private:
  // An id that may or may not belong to the top_p.
  struct Ranked {
    double adjusted;
    std::size_t index;  // of candidates
  };

  void adjust(std::span<const float> logits, const SampleSpec& spec);
  void penalise(const SamplingParams& params, const TokenHistory& history);
  TokenId choose(const SampleSpec& spec);
  std::size_t candidates() const { return all_ ? adjusted_.size() : ids_.size(); }
  TokenId id(std::size_t i) const { return all_ ? static_cast<TokenId>(i) : ids_[i]; }
  void weigh(double largest, double per_temperature);
  void keep_top_p(double top_p);
  void keep_min_p(double min_p);
  TokenId draw(std::uint64_t bits) const;
  void score(std::span<const float> logits, const SamplingParams* params, SampledToken& out);

  std::vector<double> adjusted_;  // [vocabulary]
  // Candidates ascend by id. One that a filter drops keeps its place and gets weight 0.
  bool all_ = true;            // every id of the vocabulary; ids_ is not used
  std::vector<TokenId> ids_;   // the top_k
  std::vector<double> below_;  // (adjusted − largest) / temperature
  std::vector<std::uint64_t> weights_;
  std::vector<Ranked> ranked_;
  std::vector<TokenId> top_;
};

}  // namespace mesh::engine
