#pragma once
// What the mesh may rely on in a request that the API has let through.

#include <algorithm>

#include "api/generate_fields.h"
#include "base/check.h"
#include "base/limits.h"

namespace mesh::fuzz {

inline void check_refusal(const api::ApiError& error) {
  MESH_CHECK(error.status >= 400 && error.status < 500, "status {}", error.status);
  MESH_CHECK(!error.message.empty(), "a refusal without a sentence");
}

inline void check_between(const std::optional<float>& value, float low, float high) {
  if (value)
    MESH_CHECK(*value >= low && *value <= high, "{} is not in {} to {}", *value, low, high);
}

inline void check_promises(const api::AnswerRequest& request) {
  const node::GenerateRequest& g = request.generate;
  MESH_CHECK(!g.prompts.empty() && g.prompts.size() <= limits::kRequestPrompts, "{} prompts",
             g.prompts.size());
  MESH_CHECK(g.n >= 1 && g.n <= limits::kChoices && g.best_of <= limits::kChoices, "{} choices",
             g.n);
  MESH_CHECK(g.prompts.size() * std::max(g.n, g.best_of) <= limits::kSequencesPerRequest,
             "too many sequences");
  check_between(g.sampling.temperature, 0, 2);
  check_between(g.sampling.top_p, 0, 1);
  check_between(g.sampling.min_p, 0, 1);
  check_between(g.sampling.presence_penalty, -2, 2);
  check_between(g.sampling.frequency_penalty, -2, 2);
  if (g.sampling.repetition_penalty)
    MESH_CHECK(*g.sampling.repetition_penalty > 0, "a penalty of 0");
  if (g.sampling.top_p) MESH_CHECK(*g.sampling.top_p > 0, "a top_p of 0");
  MESH_CHECK(std::is_sorted(g.sampling.logit_bias.begin(), g.sampling.logit_bias.end()),
             "biases out of order");
  for (const auto& [token, bias] : g.sampling.logit_bias)
    MESH_CHECK(token >= 0 && bias >= -100 && bias <= 100, "a bias of {}", bias);
  for (const std::string& stop : g.stop) MESH_CHECK(!stop.empty(), "an empty stop string");
  MESH_CHECK(g.stop.size() <= limits::kStopStrings, "{} stop strings", g.stop.size());
  MESH_CHECK(!g.logprobs || *g.logprobs <= limits::kTopLogprobs, "logprobs out of range");
  MESH_CHECK(!g.max_tokens || *g.max_tokens > 0 || g.echo, "nothing to do");
}

}  // namespace mesh::fuzz
