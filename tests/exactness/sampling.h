#pragma once
// Seeded generation in one configuration, token by token against what is known.

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "base/sampling.h"
#include "ops/ops.h"
#include "subjects.h"

namespace mesh::exactness {

// Every token of every sequence with its log-probabilities.
using Generations = std::vector<std::vector<SampledToken>>;  // [sequence][token]

enum class Start {
  kTogether,   // all sequences in the first step
  kStaggered,  // one more every few steps: prompts beside running generations
  kReplayed,   // each with some of its known tokens computed again like a prompt
};

struct SamplingSetup {
  std::vector<std::uint32_t> cuts;
  std::size_t chunk = 0;  // rows of a sequence per step; 0: no limit
  Start start = Start::kTogether;
  std::size_t tokens = 256;  // of each sequence
};

// Eight sequences: four prompts of mixed lengths, each with its own parameters (among them all
// penalties and filters) and two choices. What `known` holds is compared, bits of log-probabilities
// included, the rest is entered. Errors: internal (names sequence and token), those of the ring.
Result<void> run_sampling(ops::Backend& backend, const Subject& subject, const SamplingSetup& setup,
                          Generations& known);

// One hash over all of it.
std::uint64_t digest(const Generations& generations);

}  // namespace mesh::exactness
