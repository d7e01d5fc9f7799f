#pragma once
// Choice of the next token from a row of logits.

#include <span>

#include "base/ids.h"

namespace mesh::engine {

struct Sample {
  TokenId token = 0;
  bool finite = true;  // false: some logit is NaN or infinite, `token` means nothing
};

// Id of the largest logit, the lowest id among equals. `logits` holds at least one value.
Sample greedy(std::span<const float> logits);

// Whether every value is finite.
bool all_finite(std::span<const float> values);

}  // namespace mesh::engine
