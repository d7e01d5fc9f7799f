#include "api/completion_request.h"

#include "base/limits.h"

namespace mesh::api {
namespace {

constexpr RequestFields::NotOffered kNotOffered[] = {
    {"suffix", RequestFields::Neutral::kEmpty},
    {"top_logprobs", RequestFields::Neutral::kNumber, 0},
    {"add_special_tokens", RequestFields::Neutral::kTrue},
};

}  // namespace

std::variant<AnswerRequest, ApiError> parse_completion_request(std::string_view body) {
  RequestFields fields(body, "\"prompt\"");
  AnswerRequest out;
  if (fields.ok() && !fields.has("prompt")) fields.refuse("prompt", "prompt is missing.");
  fields.prompts("prompt", limits::kRequestPrompts, out.generate.prompts);
  fields.boolean("echo", out.generate.echo);
  // Without an answer only the prompt's own scores are of use.
  read_max_tokens(fields, out.generate.echo ? 0 : 1, out);
  std::optional<std::int64_t> logprobs;
  fields.integer("logprobs", 0, limits::kTopLogprobs, logprobs);
  if (logprobs) out.generate.logprobs = static_cast<std::uint32_t>(*logprobs);
  for (const RequestFields::NotOffered& row : kNotOffered) fields.not_offered(row);
  read_generate_fields(fields, out);
  // The running count is taken from the answer's tokens, and those of an echo are not of it.
  if (out.continuous_usage && out.generate.echo)
    fields.refuse("stream_options.continuous_usage_stats",
                  "stream_options.continuous_usage_stats is not possible with echo.");
  if (fields.problem()) return *fields.problem();
  return out;
}

}  // namespace mesh::api
