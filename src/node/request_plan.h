#pragma once
// What a request means for the model at hand: checked, with every default filled in. Pure.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/sampling.h"
#include "model/generation_config.h"
#include "node/gateway.h"

namespace mesh::node {

// What a request is measured against.
struct ModelRules {
  std::vector<TokenId> stop_ids;  // the model's own, ascending
  model::SamplingDefaults sampling;
  std::uint32_t vocabulary = 0;
};

struct RequestPlan {
  std::size_t prompts = 1;
  std::uint32_t choices = 1;    // shown of each prompt
  std::uint32_t sequences = 1;  // made of each prompt; more than choices: the best are shown
  // Of every sequence but for `choice`. min_tokens is cut to the sequence's length when it starts.
  SamplingParams sampling;
  std::vector<TokenId> request_stop_ids;  // ascending: those that are told when they end a choice
  std::vector<std::string> stop;
  bool include_stop = false;
  bool token_texts = false;  // pieces carry log-probabilities
  bool echo = false;
  bool score_only = false;  // max_tokens 0: the prompt is read and nothing is said

  std::size_t all_sequences() const { return prompts * sequences; }  // ≤ kSequencesPerRequest
  bool picks_best() const { return sequences > choices; }
};

// `drawn_seed` is used when the request has none. Errors: invalid_argument with the parameter and
// the value that is wrong. Ranges that the API checks are not looked at again.
Result<RequestPlan> plan_request(const GenerateRequest& request, const ModelRules& rules,
                                 std::uint64_t drawn_seed);

// The `keep` sequences with the highest mean log-probability, best first, the earlier among equals;
// one that is not a number comes last.
std::vector<std::size_t> choose_best(const std::vector<double>& mean_logprobs, std::size_t keep);

}  // namespace mesh::node
