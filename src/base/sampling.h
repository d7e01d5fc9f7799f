#pragma once
// How the next token of a sequence is chosen, and what is told of the choice. Plain data, shared by
// everything between the request and the last stage.

#include <cstdint>
#include <utility>
#include <vector>

#include "base/ids.h"

namespace mesh {

// One sequence's sampling. The order of steps: logit_bias and the ban on stop ids (min_tokens),
// repetition penalty, presence and frequency penalties, temperature, top_k, top_p, min_p, draw.
// Defaults change nothing but temperature: 0 takes the likeliest token, the lowest id among equals.
struct SamplingParams {
  float temperature = 0.0f;         // ≥ 0
  std::uint32_t top_k = 0;          // 0: all
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1], relative to the likeliest token
  float repetition_penalty = 1.0f;  // > 0; tokens of prompt and output
  float presence_penalty = 0.0f;    // [-2, 2]; tokens of the output
  float frequency_penalty = 0.0f;   // [-2, 2]; tokens of the output, once for each time
  std::uint64_t seed = 0;           // with choice and position the key of every draw
  std::uint32_t choice = 0;         // which of the n choices of a request
  std::uint32_t min_tokens = 0;     // so many are drawn before a stop id may be
  std::vector<TokenId> stop_ids;    // the last stage ends the sequence with "stop" on one of these
  std::vector<std::pair<TokenId, float>> logit_bias;  // ascending by token, each once
  // Log-probabilities of the model's own distribution (before any of the steps above): -1 none,
  // else of the chosen token and of so many likeliest.
  std::int32_t logprobs = -1;
  bool prompt_logprobs = false;  // also of every token of the prompt but the first

  bool penalises() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
  friend bool operator==(const SamplingParams&, const SamplingParams&) = default;
};

struct TokenScore {
  TokenId token = 0;
  float logprob = 0;
  friend bool operator==(const TokenScore&, const TokenScore&) = default;
};

// A chosen (or, in a prompt, given) token and what SamplingParams::logprobs asks of it.
struct SampledToken {
  TokenId token = 0;
  float logprob = 0;                 // 0 unless asked for
  std::vector<TokenScore> top = {};  // likeliest first, the lower id among equals
  friend bool operator==(const SampledToken&, const SampledToken&) = default;
};

}  // namespace mesh
