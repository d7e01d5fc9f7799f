#include "node/request_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string_view>

#include "base/limits.h"
#include "text/utf8.h"

namespace mesh::node {
namespace {

Error invalid(std::string sentence) {
  return Error(Code::kInvalidArgument, std::move(sentence));
}

Result<void> check_id(std::string_view parameter, TokenId id, std::uint32_t vocabulary) {
  if (id >= 0 && static_cast<std::uint32_t>(id) < vocabulary) return {};
  return invalid(fmt::format("{}: token {} is not in the model's vocabulary of {} tokens",
                             parameter, id, vocabulary));
}

void sort_unique(std::vector<TokenId>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

Result<void> plan_choices(const GenerateRequest& request, RequestPlan& plan) {
  if (request.prompts.empty()) return invalid("there is no prompt");
  if (request.n == 0) return invalid("n must not be 0");
  if (request.best_of != 0 && request.best_of < request.n)
    return invalid(
        fmt::format("best_of is {}, it must not be less than n, {}", request.best_of, request.n));
  plan.prompts = request.prompts.size();
  plan.choices = request.n;
  plan.sequences = std::max(request.n, request.best_of);
  const std::uint64_t all = std::uint64_t{plan.sequences} * request.prompts.size();
  if (all > limits::kSequencesPerRequest)
    return invalid(
        fmt::format("{} prompts with {} choices each are {} sequences, at most {} may "
                    "be asked for at once",
                    request.prompts.size(), plan.sequences, all, limits::kSequencesPerRequest));
  return {};
}

Result<void> plan_stops(const GenerateRequest& request, const ModelRules& rules,
                        RequestPlan& plan) {
  for (const TokenId id : request.stop_token_ids)
    MESH_RETURN_IF_ERROR(check_id("stop_token_ids", id, rules.vocabulary));
  plan.request_stop_ids = request.stop_token_ids;
  sort_unique(plan.request_stop_ids);
  std::vector<TokenId>& ids = plan.sampling.stop_ids;
  ids = plan.request_stop_ids;
  if (!request.ignore_eos) ids.insert(ids.end(), rules.stop_ids.begin(), rules.stop_ids.end());
  sort_unique(ids);
  if (ids.size() > limits::kStopIds)
    return invalid(fmt::format("stop_token_ids: {} stop tokens with the model's own, at most {}",
                               ids.size(), limits::kStopIds));
  if (request.stop.size() > limits::kStopStrings)
    return invalid(
        fmt::format("stop: {} strings, at most {}", request.stop.size(), limits::kStopStrings));
  for (const std::string& stop : request.stop) {
    if (stop.empty()) return invalid("stop: a stop string must not be empty");
    if (!text::is_utf8(stop)) return invalid("stop: a stop string is not UTF-8");
    if (stop.size() > limits::kStopStringBytes)
      return invalid(fmt::format("stop: a string of {} bytes, at most {}", stop.size(),
                                 limits::kStopStringBytes));
  }
  plan.stop = request.stop;
  plan.include_stop = request.include_stop;
  return {};
}

Result<void> plan_sampling(const GenerateRequest& request, const ModelRules& rules,
                           std::uint64_t drawn_seed, SamplingParams& out) {
  const SamplingRequest& asked = request.sampling;
  out.temperature = asked.temperature.value_or(rules.sampling.temperature);
  out.top_k = asked.top_k.value_or(rules.sampling.top_k);
  out.top_p = asked.top_p.value_or(rules.sampling.top_p);
  out.min_p = asked.min_p.value_or(rules.sampling.min_p);
  out.repetition_penalty = asked.repetition_penalty.value_or(rules.sampling.repetition_penalty);
  out.presence_penalty = asked.presence_penalty.value_or(0.0f);
  out.frequency_penalty = asked.frequency_penalty.value_or(0.0f);
  out.seed = asked.seed.value_or(drawn_seed);
  out.min_tokens = request.min_tokens;
  if (request.max_tokens.has_value() && request.min_tokens > *request.max_tokens)
    return invalid(fmt::format("min_tokens is {}, more than max_tokens, {}", request.min_tokens,
                               *request.max_tokens));
  out.logit_bias = asked.logit_bias;
  std::sort(out.logit_bias.begin(), out.logit_bias.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  for (std::size_t i = 0; i < out.logit_bias.size(); ++i) {
    const TokenId id = out.logit_bias[i].first;
    MESH_RETURN_IF_ERROR(check_id("logit_bias", id, rules.vocabulary));
    if (i > 0 && out.logit_bias[i - 1].first == id)
      return invalid(fmt::format("logit_bias: token {} is named twice", id));
  }
  return {};
}

}  // namespace

Result<RequestPlan> plan_request(const GenerateRequest& request, const ModelRules& rules,
                                 std::uint64_t drawn_seed) {
  RequestPlan plan;
  MESH_RETURN_IF_ERROR(plan_choices(request, plan));
  MESH_RETURN_IF_ERROR(plan_stops(request, rules, plan));
  MESH_RETURN_IF_ERROR(plan_sampling(request, rules, drawn_seed, plan.sampling));
  if (request.max_tokens == 0u && !request.echo)
    return invalid("max_tokens must not be 0, unless the prompt is echoed");
  plan.echo = request.echo;
  plan.score_only = request.max_tokens == 0u;
  plan.token_texts = request.logprobs.has_value();
  if (plan.token_texts)
    plan.sampling.logprobs = static_cast<std::int32_t>(
        std::min<std::uint32_t>(*request.logprobs, std::numeric_limits<std::int32_t>::max()));
  else if (plan.picks_best())
    plan.sampling.logprobs = 0;
  plan.sampling.prompt_logprobs = plan.token_texts && plan.echo;
  return plan;
}

std::vector<std::size_t> choose_best(const std::vector<double>& mean_logprobs, std::size_t keep) {
  const auto rank = [&](std::size_t i) {
    return std::isnan(mean_logprobs[i]) ? -std::numeric_limits<double>::infinity()
                                        : mean_logprobs[i];
  };
  std::vector<std::size_t> order(mean_logprobs.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rank(a) > rank(b); });
  order.resize(std::min(keep, order.size()));
  return order;
}

}  // namespace mesh::node
