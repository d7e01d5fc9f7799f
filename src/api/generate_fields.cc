#include "api/generate_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/limits.h"

namespace mesh::api {
namespace {

using Neutral = RequestFields::Neutral;

constexpr double kPenaltyMost = 1000;  // of repetition_penalty: any sense ends long before

constexpr RequestFields::NotOffered kNotOffered[] = {
    {"typical_p", Neutral::kNumber, 1},
    {"mirostat", Neutral::kNumber, 0},
    {"dry_multiplier", Neutral::kNumber, 0},
    {"xtc_probability", Neutral::kNumber, 0},
    {"dynatemp_range", Neutral::kNumber, 0},
    {"use_beam_search", Neutral::kFalse},
    {"prompt_logprobs", Neutral::kNull},
    {"allowed_token_ids", Neutral::kEmpty},
    {"bad_words", Neutral::kEmpty},
    {"truncate_prompt_tokens", Neutral::kNull},
    {"skip_special_tokens", Neutral::kTrue},
    {"return_token_ids", Neutral::kFalse},
    {"return_tokens_as_token_ids", Neutral::kFalse},
    {"functions", Neutral::kEmpty},
    {"function_call", Neutral::kName, 0, "none"},
    {"response_format", Neutral::kTypeName, 0, "text"},
    {"json_schema", Neutral::kNull},
    {"grammar", Neutral::kEmpty},
    {"structured_outputs", Neutral::kNull},
    {"guided_json", Neutral::kNull},
    {"guided_regex", Neutral::kNull},
    {"guided_choice", Neutral::kNull},
    {"guided_grammar", Neutral::kNull},
    {"reasoning_format", Neutral::kNameOrNot, 0, "auto"},
    {"audio", Neutral::kNull},
    {"web_search_options", Neutral::kNull},
};

void read_sampling(RequestFields& fields, node::SamplingRequest& out) {
  fields.number("temperature", {0, 2}, out.temperature);
  fields.number("top_p", {0, 1, true}, out.top_p);
  fields.number("min_p", {0, 1}, out.min_p);
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  std::optional<std::int64_t> top_k;
  fields.integer("top_k", -1, kMost, top_k);
  if (top_k) out.top_k = static_cast<std::uint32_t>(std::max<std::int64_t>(*top_k, 0));
  fields.number("repeat_penalty", {0, kPenaltyMost, true}, out.repetition_penalty);
  fields.number("repetition_penalty", {0, kPenaltyMost, true}, out.repetition_penalty);
  fields.number("presence_penalty", {-2, 2}, out.presence_penalty);
  fields.number("frequency_penalty", {-2, 2}, out.frequency_penalty);
  std::optional<std::int64_t> seed;
  fields.integer("seed", std::numeric_limits<std::int64_t>::min(),
                 std::numeric_limits<std::int64_t>::max(), seed);
  if (seed) out.seed = static_cast<std::uint64_t>(*seed);
  fields.token_numbers("logit_bias", limits::kLogitBiases, {-100, 100}, out.logit_bias);
}

void read_choices(RequestFields& fields, AnswerRequest& out) {
  std::optional<std::int64_t> n, best_of;
  fields.integer("n", 1, limits::kChoices, n);
  out.generate.n = static_cast<std::uint32_t>(n.value_or(1));
  fields.integer("best_of", 1, limits::kChoices, best_of);
  if (best_of && *best_of < out.generate.n)
    fields.refuse("best_of", fmt::format("best_of must be at least n, which is {}; got {}.",
                                         out.generate.n, *best_of));
  if (best_of && *best_of > out.generate.n) {
    if (out.stream)
      fields.refuse("best_of",
                    fmt::format("best_of above n is not possible with \"stream\":true, since the "
                                "best are known at the end; got {}.",
                                *best_of));
    out.generate.best_of = static_cast<std::uint32_t>(*best_of);
  }
  const std::size_t sequences =
      out.generate.prompts.size() * std::max(out.generate.n, out.generate.best_of);
  if (sequences > limits::kSequencesPerRequest)
    fields.refuse("n", fmt::format("n (or best_of) times the number of prompts must be at most {}; "
                                   "got {}.",
                                   limits::kSequencesPerRequest, sequences));
}

void read_stops(RequestFields& fields, node::GenerateRequest& out) {
  fields.texts("stop", limits::kStopStrings, limits::kStopStringBytes, out.stop);
  fields.token_ids("stop_token_ids", limits::kStopIds, true, out.stop_token_ids);
  fields.boolean("ignore_eos", out.ignore_eos);
  fields.boolean("include_stop_str_in_output", out.include_stop);
  std::optional<std::uint32_t> min_tokens;
  fields.count("min_tokens", 0, min_tokens);
  out.min_tokens = min_tokens.value_or(0);
  if (out.max_tokens && out.min_tokens > *out.max_tokens)
    fields.refuse("min_tokens", fmt::format("min_tokens must be at most max_tokens, which is {}; "
                                            "got {}.",
                                            *out.max_tokens, out.min_tokens));
}

void read_stream(RequestFields& fields, AnswerRequest& out) {
  fields.boolean("stream", out.stream);
  if (!fields.has("stream_options")) return;
  fields.member_boolean("stream_options", "include_usage", out.include_usage);
  fields.member_boolean("stream_options", "continuous_usage_stats", out.continuous_usage);
  if (!out.stream)
    fields.refuse("stream_options", "stream_options is only allowed with \"stream\":true.");
}

}  // namespace

void read_max_tokens(RequestFields& fields, std::uint32_t low, AnswerRequest& out) {
  fields.count("max_tokens", low, out.generate.max_tokens);
  fields.count("max_completion_tokens", low, out.generate.max_tokens);
}

void read_generate_fields(RequestFields& fields, AnswerRequest& out) {
  fields.text("model", out.model);
  read_stream(fields, out);
  read_sampling(fields, out.generate.sampling);
  read_choices(fields, out);
  read_stops(fields, out.generate);
  for (const RequestFields::NotOffered& row : kNotOffered) fields.not_offered(row);
}

}  // namespace mesh::api
