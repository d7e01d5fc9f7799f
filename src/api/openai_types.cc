#include "api/openai_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "api/json_text.h"
#include "base/bytes.h"
#include "base/error_table.h"
#include "base/limits.h"
#include "base/random.h"

namespace mesh::api {
namespace {

using Json = nlohmann::json;
using Ordered = nlohmann::ordered_json;
using Problem = std::optional<ApiError>;

std::string dump(const Ordered& value) {
  return value.dump(-1, ' ', false, Ordered::error_handler_t::replace);
}

ApiError bad(std::string_view param, std::string message) {
  ApiError error;
  error.param = std::string(param);
  error.message = std::move(message);
  return error;
}

// "a list of 3", "\"abc\"", "0.7": short, whatever the client sent.
std::string found(const Json& value) {
  constexpr std::size_t kShown = 40;
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return fmt::format("a list of {}", value.size());
    default: {
      std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
      if (text.size() > kShown) text = text.substr(0, kShown) + "…";
      return text;
    }
  }
}

ApiError wrong_type(std::string_view param, std::string_view wanted, const Json& value) {
  return bad(param, fmt::format("{} must be {}; got {}.", param, wanted, found(value)));
}

// Parameters whose neutral values are accepted and whose others would change the answer in a way
// which the server does not offer.
enum class Neutral {
  kNumber,       // the number in `value`
  kOffIfBelow1,  // top_k: 0 or negative
  kFalse,
  kTrue,
  kEmpty,      // "", [] or {}
  kNull,       // only null
  kName,       // the string in `name` (or null)
  kTypeName,   // {"type": name}
  kSeed,       // any integer: a greedy answer does not depend on it
  kNameOrNot,  // `name` or "none"
};

struct NotBuilt {
  std::string_view param;
  Neutral neutral;
  double value = 0;
  std::string_view name = {};
};

constexpr NotBuilt kNotBuilt[] = {
    {"top_p", Neutral::kNumber, 1},
    {"top_k", Neutral::kOffIfBelow1},
    {"min_p", Neutral::kNumber, 0},
    {"typical_p", Neutral::kNumber, 1},
    {"seed", Neutral::kSeed},
    {"n", Neutral::kNumber, 1},
    {"best_of", Neutral::kNumber, 1},
    {"use_beam_search", Neutral::kFalse},
    {"presence_penalty", Neutral::kNumber, 0},
    {"frequency_penalty", Neutral::kNumber, 0},
    {"repetition_penalty", Neutral::kNumber, 1},
    {"repeat_penalty", Neutral::kNumber, 1},
    {"logit_bias", Neutral::kEmpty},
    {"logprobs", Neutral::kFalse},
    {"top_logprobs", Neutral::kNumber, 0},
    {"prompt_logprobs", Neutral::kNull},
    {"stop", Neutral::kEmpty},
    {"stop_token_ids", Neutral::kEmpty},
    {"include_stop_str_in_output", Neutral::kFalse},
    {"ignore_eos", Neutral::kFalse},
    {"min_tokens", Neutral::kNumber, 0},
    {"echo", Neutral::kFalse},
    {"suffix", Neutral::kEmpty},
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
    {"continue_final_message", Neutral::kFalse},
    {"add_generation_prompt", Neutral::kTrue},
    {"reasoning_format", Neutral::kNameOrNot, 0, "auto"},
    {"audio", Neutral::kNull},
    {"web_search_options", Neutral::kNull},
};

// What a wrong value should have been, by the kind of its neutral one.
struct Judgement {
  bool type_ok = true;
  bool neutral = true;
  std::string_view wanted;
};

Judgement judge(const NotBuilt& row, const Json& v) {
  const bool string = v.is_string();
  switch (row.neutral) {
    case Neutral::kNumber:
      return {v.is_number(), v.is_number() && v.get<double>() == row.value, "a number"};
    case Neutral::kOffIfBelow1:
      return {v.is_number_integer(), v.is_number_integer() && v.get<double>() < 1, "an integer"};
    case Neutral::kFalse:
      return {v.is_boolean(), v == false, "true or false"};
    case Neutral::kTrue:
      return {v.is_boolean(), v == true, "true or false"};
    case Neutral::kEmpty:
      return {v.is_structured() || string, v.empty() || (string && v == ""),
              "a string, a list or an object"};
    case Neutral::kNull:
      return {true, false, ""};
    case Neutral::kName:
      return {string || v.is_object(), string && v == row.name, "a string or an object"};
    case Neutral::kTypeName:
      return {v.is_object() && v.contains("type") && v["type"].is_string(),
              v.is_object() && v.contains("type") && v["type"] == row.name,
              "an object with a \"type\""};
    case Neutral::kSeed:
      return {v.is_number_integer(), true, "an integer"};
    case Neutral::kNameOrNot:
      return {string, string && (v == row.name || v == "none"), "a string"};
  }
  return {};
}

std::string neutral_text(const NotBuilt& row) {
  switch (row.neutral) {
    case Neutral::kNumber:
      return fmt::format("{} other than {} is", row.param, row.value);
    case Neutral::kTypeName:
    case Neutral::kName:
      return fmt::format("{} other than \"{}\" is", row.param, row.name);
    default:
      return fmt::format("{} is", row.param);
  }
}

Problem check_not_built(const Json& body) {
  for (const NotBuilt& row : kNotBuilt) {
    const auto at = body.find(row.param);
    if (at == body.end() || at->is_null()) continue;
    const Judgement verdict = judge(row, *at);
    if (!verdict.type_ok) return wrong_type(row.param, verdict.wanted, *at);
    if (row.param == "stop" && *at == "") return bad("stop", "stop must not be an empty string.");
    if (!verdict.neutral)
      return bad(row.param, fmt::format("{} not built yet in this server; leave it out. Got {}.",
                                        neutral_text(row), found(*at)));
  }
  return std::nullopt;
}

Problem check_temperature(const Json& body) {
  const auto at = body.find("temperature");
  if (at == body.end() || at->is_null()) return std::nullopt;
  if (!at->is_number()) return wrong_type("temperature", "a number from 0 to 2", *at);
  const double value = at->get<double>();
  if (!(value >= 0 && value <= 2))
    return bad("temperature", fmt::format("temperature must be from 0 to 2; got {}.", found(*at)));
  if (value != 0)
    return bad("temperature",
               fmt::format("temperature other than 0 is not built yet in this server: it always "
                           "takes the likeliest token. Leave it out or send 0. Got {}.",
                           found(*at)));
  return std::nullopt;
}

// Tools may be named with tool_choice "none": they then change nothing.
Problem check_tools(const Json& body) {
  const Json null;
  const auto get = [&](const char* name) -> const Json& {
    const auto at = body.find(name);
    return at == body.end() ? null : *at;
  };
  const Json& tools = get("tools");
  const Json& choice = get("tool_choice");
  if (!tools.is_null() && !tools.is_array()) return wrong_type("tools", "a list", tools);
  if (!choice.is_null() && !choice.is_string() && !choice.is_object())
    return wrong_type("tool_choice", "a string or an object", choice);
  const bool some = tools.is_array() && !tools.empty();
  if (choice.is_object() || choice == "required")
    return bad("tool_choice", some ? "tool_choice other than \"none\" is not built yet in this "
                                     "server."
                                   : "tool_choice needs a list of tools, and tools are not built "
                                     "yet in this server.");
  if (choice.is_string() && choice != "none" && choice != "auto")
    return bad("tool_choice", fmt::format("tool_choice must be \"none\", \"auto\", \"required\" or "
                                          "an object; got {}.",
                                          found(choice)));
  if (some && choice != "none")
    return bad("tools",
               "tools are not built yet in this server; leave them out or send "
               "\"tool_choice\":\"none\".");
  return std::nullopt;
}

Problem check_content_part(const std::string& where, const Json& part) {
  if (!part.is_object() || !part.contains("type") || !part["type"].is_string())
    return wrong_type(where, "an object with a \"type\"", part);
  const std::string type = part["type"].get<std::string>();
  if (type != "text")
    return bad(where, fmt::format("{} is of type {}; this server's model reads text only.", where,
                                  found(part["type"])));
  if (!part.contains("text") || !part["text"].is_string())
    return bad(where + ".text", fmt::format("{}.text must be a string.", where));
  return std::nullopt;
}

Problem check_message(const std::string& where, const Json& message) {
  if (!message.is_object()) return wrong_type(where, "an object", message);
  const auto role = message.find("role");
  if (role == message.end()) return bad(where + ".role", where + ".role is missing.");
  constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool"};
  bool known = false;
  for (std::string_view name : kRoles) known = known || *role == name;
  if (!known)
    return bad(where + ".role",
               fmt::format("{}.role must be system, developer, user, assistant or tool; got {}.",
                           where, found(*role)));
  const auto content = message.find("content");
  const bool may_be_empty = *role == "assistant";  // tool calls only
  if (content == message.end()) {
    if (may_be_empty) return std::nullopt;
    return bad(where + ".content", where + ".content is missing.");
  }
  if (content->is_string() || (content->is_null() && may_be_empty)) return std::nullopt;
  if (!content->is_array())
    return wrong_type(where + ".content", "a string or a list of text parts", *content);
  for (std::size_t i = 0; i < content->size(); ++i)
    if (auto problem = check_content_part(fmt::format("{}.content[{}]", where, i), (*content)[i]))
      return problem;
  return std::nullopt;
}

Problem check_messages(const Json& body) {
  const auto messages = body.find("messages");
  if (messages == body.end()) return bad("messages", "messages is missing.");
  if (!messages->is_array()) return wrong_type("messages", "a list", *messages);
  if (messages->empty()) return bad("messages", "messages must not be empty.");
  if (messages->size() > limits::kRequestMessages)
    return bad("messages", fmt::format("messages has {} entries, at most {} are taken.",
                                       messages->size(), limits::kRequestMessages));
  for (std::size_t i = 0; i < messages->size(); ++i)
    if (auto problem = check_message(fmt::format("messages[{}]", i), (*messages)[i]))
      return problem;
  return std::nullopt;
}

// The messages for the chat template: the text as it was sent, unless a content is a list of parts
// or null. Templates of text models add content to strings, so parts are joined by line feeds and
// null is the empty text, as other servers do.
std::string template_messages(std::string_view raw) {
  Ordered messages = Ordered::parse(raw);
  bool changed = false;
  for (Ordered& message : messages) {
    const auto content = message.find("content");
    if (content == message.end() || content->is_string()) continue;
    std::string text;
    if (content->is_array())
      for (std::size_t i = 0; i < content->size(); ++i)
        text += (i > 0 ? "\n" : "") + (*content)[i]["text"].get<std::string>();
    *content = text;
    changed = true;
  }
  return changed ? dump(messages) : std::string(raw);
}

node::ChatPrompt& out_chat(ChatRequest& out) {
  if (out.generate.prompts.empty()) out.generate.prompts.emplace_back(node::ChatPrompt{});
  return std::get<node::ChatPrompt>(out.generate.prompts.front());
}

Problem read_max_tokens(const Json& body, std::optional<std::uint32_t>& out) {
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {
    const auto at = body.find(name);
    if (at == body.end() || at->is_null()) continue;
    if (!at->is_number_integer()) return wrong_type(name, "an integer of at least 1", *at);
    if (!at->is_number_unsigned() || at->get<std::uint64_t>() < 1)
      return bad(name, fmt::format("{} must be at least 1; got {}.", name, found(*at)));
    constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
    out = static_cast<std::uint32_t>(std::min(at->get<std::uint64_t>(), kMost));
  }
  return std::nullopt;
}

Problem read_bool(const Json& object, const char* name, std::string_view param, bool& out) {
  const auto at = object.find(name);
  if (at == object.end() || at->is_null()) return std::nullopt;
  if (!at->is_boolean()) return wrong_type(param, "true or false", *at);
  out = at->get<bool>();
  return std::nullopt;
}

Problem read_stream(const Json& body, ChatRequest& out) {
  if (auto problem = read_bool(body, "stream", "stream", out.stream)) return problem;
  const auto options = body.find("stream_options");
  if (options == body.end() || options->is_null()) return std::nullopt;
  if (!options->is_object()) return wrong_type("stream_options", "an object", *options);
  if (!out.stream)
    return bad("stream_options", "stream_options is only allowed with \"stream\":true.");
  if (auto problem =
          read_bool(*options, "include_usage", "stream_options.include_usage", out.include_usage))
    return problem;
  bool continuous = false;
  if (auto problem = read_bool(*options, "continuous_usage_stats",
                               "stream_options.continuous_usage_stats", continuous))
    return problem;
  if (continuous)
    return bad("stream_options.continuous_usage_stats",
               "stream_options.continuous_usage_stats is not built yet in this server.");
  return std::nullopt;
}

Problem read_rest(const Json& body, std::string_view text, ChatRequest& out) {
  const auto model = body.find("model");
  if (model != body.end() && !model->is_null()) {
    if (!model->is_string()) return wrong_type("model", "a string", *model);
    out.model = model->get<std::string>();
  }
  const auto kwargs = body.find("chat_template_kwargs");
  const auto raw = json_members(text);
  if (kwargs != body.end() && !kwargs->is_null()) {
    if (!kwargs->is_object()) return wrong_type("chat_template_kwargs", "an object", *kwargs);
    out_chat(out).template_json = std::string(raw.at("chat_template_kwargs"));
  }
  out_chat(out).messages_json = template_messages(raw.at("messages"));
  return std::nullopt;
}

Ordered usage_object(const node::Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", std::uint64_t{usage.prompt_tokens} + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", 0}}}};
}

double thousandths(double value) {
  return std::round(value * 1e3) / 1e3;
}

// Named as llama.cpp names them.
Ordered timings_object(const node::Usage& usage, const node::Timings& timings) {
  const double generation_s = to_seconds(timings.generation);
  // The first token belongs to the prompt's time.
  const double per_s = generation_s > 0 && usage.completion_tokens > 1
                           ? (usage.completion_tokens - 1) / generation_s
                           : 0.0;
  return {{"prompt_n", usage.prompt_tokens},
          {"prompt_ms", thousandths(to_milliseconds(timings.prompt))},
          {"predicted_n", usage.completion_tokens},
          {"predicted_ms", thousandths(to_milliseconds(timings.generation))},
          {"predicted_per_second", thousandths(per_s)}};
}

const char* reason_name(node::FinishReason reason) {
  return reason == node::FinishReason::kLength ? "length" : "stop";
}

Ordered chunk(const AnswerIdentity& identity) {
  return {{"id", identity.id},
          {"object", "chat.completion.chunk"},
          {"created", identity.created},
          {"model", identity.model},
          {"system_fingerprint", identity.fingerprint}};
}

Ordered choices(Ordered delta, const Ordered& finish_reason) {
  Ordered choice{{"index", 0},
                 {"delta", std::move(delta)},
                 {"logprobs", nullptr},
                 {"finish_reason", finish_reason}};
  return Ordered::array({std::move(choice)});
}

std::string event(const Ordered& value) {
  return "data: " + dump(value) + "\n\n";
}

std::string missing_text(const node::MeshStatus& status) {
  std::string out;
  for (const LayerRange& range : status.missing)
    out += (out.empty() ? "" : ", ") + range.to_string();
  return out;
}

}  // namespace

std::string error_json(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? Ordered(nullptr) : Ordered(text);
  };
  return dump({{"error",
                {{"message", error.message},
                 {"type", error.type},
                 {"param", text_or_null(error.param)},
                 {"code", text_or_null(error.code)}}}});
}

ApiError unavailable_error(const node::MeshStatus& status, std::string_view why) {
  ApiError out;
  out.status = 503;
  out.type = "unavailable_error";
  out.retry_after_s = 2;
  if (status.ready) {
    out.code = "unavailable";
    out.message = std::string(why);
    return out;
  }
  out.code = status.missing.empty() ? "model_loading" : "cluster_incomplete";
  const std::string layers = missing_text(status);
  const auto names_layers = [&](std::string_view text) {
    return !layers.empty() && text.find(layers) != std::string_view::npos;
  };
  if (status.missing.empty()) {
    out.message = std::string(why);
  } else if (names_layers(why)) {
    out.message = fmt::format("{} is not complete: {}", status.model, why);
  } else {
    out.message = fmt::format("No node serves the layers {} of {}.{}{}", layers, status.model,
                              why.empty() ? "" : " ", why);
  }
  if (!status.waiting_for.empty() && status.waiting_for != why && !names_layers(status.waiting_for))
    out.message += " Waiting for: " + status.waiting_for;
  return out;
}

ApiError error_from_mesh(const Error& error, const node::MeshStatus& status,
                         std::string_view request_id) {
  ApiError out;
  out.status = http_status(error.code);
  out.message = error.message;
  switch (error.code) {
    case Code::kInvalidArgument:
      if (out.message.rfind(kContextLengthPrefix, 0) == 0) {
        out.message = out.message.substr(kContextLengthPrefix.size());
        out.code = "context_length_exceeded";
        out.param = "messages";
      }
      return out;
    case Code::kUnsupported:
      out.code = "unsupported";
      return out;
    case Code::kNotFound:
      out.type = "not_found_error";
      out.code = "not_found";
      return out;
    case Code::kPermissionDenied:
      out.type = "permission_error";
      out.code = "permission_denied";
      return out;
    case Code::kUnavailable:
      return unavailable_error(status, error.message);
    case Code::kResourceExhausted:
      out.type = "rate_limit_error";
      out.code = "queue_full";
      out.retry_after_s = 1;
      return out;
    default:
      break;
  }
  out.type = "server_error";
  out.code = error.code == Code::kDeadlineExceeded ? "node_timeout"
             : error.code == Code::kCancelled      ? "cancelled"
                                                   : "server_error";
  out.message += fmt::format(" (request {})", request_id);
  return out;
}

std::variant<ChatRequest, ApiError> parse_chat_request(std::string_view body) {
  if (json_deeper_than(body, limits::kRequestJsonDepth))
    return bad(
        "", fmt::format("The JSON body nests deeper than {} levels.", limits::kRequestJsonDepth));
  if (body.empty()) return bad("", "The body is empty; send a JSON object with \"messages\".");
  Json json;
  try {
    json = Json::parse(body);
  } catch (const Json::parse_error& error) {
    return bad("", fmt::format("The body is not valid JSON in UTF-8: see byte {} of {}.",
                               std::min(error.byte, body.size()), body.size()));
  } catch (const Json::out_of_range& error) {
    return bad("", fmt::format("The body has a number that is too large: {}.", error.what()));
  }
  if (!json.is_object())
    return bad("", fmt::format("The body must be a JSON object; got {}.", found(json)));
  ChatRequest out;
  if (auto problem = check_messages(json)) return *problem;
  if (auto problem = read_max_tokens(json, out.generate.max_tokens)) return *problem;
  if (auto problem = check_temperature(json)) return *problem;
  if (auto problem = check_tools(json)) return *problem;
  if (auto problem = check_not_built(json)) return *problem;
  if (auto problem = read_stream(json, out)) return *problem;
  if (auto problem = read_rest(json, body, out)) return *problem;
  return out;
}

std::string system_fingerprint(const node::MeshStatus& status) {
  return "fp_" + to_hex(splitmix64(fnv1a64(status.numeric_class) ^ status.fingerprint));
}

ChunkFrame text_chunk_frame(const AnswerIdentity& identity) {
  // Cut where the text's JSON string goes. The mark occurs once: inside strings quotes are escaped.
  Ordered value = chunk(identity);
  value["choices"] = choices({{"content", ""}}, nullptr);
  if (identity.include_usage) value["usage"] = nullptr;
  const std::string text = event(value);
  constexpr std::string_view kMark = "\"delta\":{\"content\":";
  const std::size_t at = text.rfind(kMark) + kMark.size();
  return {text.substr(0, at), text.substr(at + 2)};
}

std::string role_event(const AnswerIdentity& identity) {
  Ordered value = chunk(identity);
  value["choices"] = choices({{"role", "assistant"}, {"content", ""}}, nullptr);
  if (identity.include_usage) value["usage"] = nullptr;
  return event(value);
}

std::string finish_event(const AnswerIdentity& identity, node::FinishReason reason,
                         const node::Usage& usage, const node::Timings& timings) {
  Ordered value = chunk(identity);
  value["choices"] = choices(Ordered::object(), reason_name(reason));
  if (identity.include_usage) value["usage"] = nullptr;
  value["timings"] = timings_object(usage, timings);
  return event(value);
}

std::string usage_event(const AnswerIdentity& identity, const node::Usage& usage) {
  Ordered value = chunk(identity);
  value["choices"] = Ordered::array();
  value["usage"] = usage_object(usage);
  return event(value);
}

std::string error_event(const ApiError& error) {
  return "data: " + error_json(error) + "\n\n";
}

std::string completion_json(const AnswerIdentity& identity, std::string_view text,
                            node::FinishReason reason, const node::Usage& usage,
                            const node::Timings& timings) {
  Ordered choice{
      {"index", 0},
      {"message", {{"role", "assistant"}, {"content", std::string(text)}, {"refusal", nullptr}}},
      {"logprobs", nullptr},
      {"finish_reason", reason_name(reason)}};
  return dump({{"id", identity.id},
               {"object", "chat.completion"},
               {"created", identity.created},
               {"model", identity.model},
               {"system_fingerprint", identity.fingerprint},
               {"choices", Ordered::array({std::move(choice)})},
               {"usage", usage_object(usage)},
               {"timings", timings_object(usage, timings)}});
}

}  // namespace mesh::api
