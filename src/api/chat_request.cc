#include "api/chat_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/limits.h"

namespace mesh::api {
namespace {

using Json = nlohmann::ordered_json;
using Problem = std::optional<ApiError>;

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

ApiError wrong(const std::string& where, std::string_view wanted, const Json& value) {
  return bad_request(
      where, fmt::format("{} must be {}; got {}.", where, wanted, describe_json(dump(value))));
}

Problem check_content_part(const std::string& where, const Json& part) {
  if (!part.is_object() || !part.contains("type") || !part["type"].is_string())
    return wrong(where, "an object with a \"type\"", part);
  if (part["type"] != "text")
    return bad_request(where, fmt::format("{} is of type {}; this server's model reads text only.",
                                          where, describe_json(dump(part["type"]))));
  if (!part.contains("text") || !part["text"].is_string())
    return bad_request(where + ".text", fmt::format("{}.text must be a string.", where));
  return std::nullopt;
}

Problem check_message(const std::string& where, const Json& message) {
  if (!message.is_object()) return wrong(where, "an object", message);
  const auto role = message.find("role");
  if (role == message.end()) return bad_request(where + ".role", where + ".role is missing.");
  constexpr std::string_view kRoles[] = {"system", "developer", "user", "assistant", "tool"};
  bool known = false;
  for (std::string_view name : kRoles) known = known || *role == name;
  if (!known) return wrong(where + ".role", "system, developer, user, assistant or tool", *role);
  const auto content = message.find("content");
  const bool may_be_empty = *role == "assistant";  // tool calls only
  if (content == message.end()) {
    if (may_be_empty) return std::nullopt;
    return bad_request(where + ".content", where + ".content is missing.");
  }
  if (content->is_string() || (content->is_null() && may_be_empty)) return std::nullopt;
  if (!content->is_array())
    return wrong(where + ".content", "a string or a list of text parts", *content);
  for (std::size_t i = 0; i < content->size(); ++i)
    if (auto problem = check_content_part(fmt::format("{}.content[{}]", where, i), (*content)[i]))
      return problem;
  return std::nullopt;
}

Problem check_messages(const Json& messages) {
  if (messages.empty()) return bad_request("messages", "messages must not be empty.");
  if (messages.size() > limits::kRequestMessages)
    return bad_request("messages", fmt::format("messages has {} entries, at most {} are taken.",
                                               messages.size(), limits::kRequestMessages));
  for (std::size_t i = 0; i < messages.size(); ++i)
    if (auto problem = check_message(fmt::format("messages[{}]", i), messages[i])) return problem;
  return std::nullopt;
}

// For the chat template: contents that are lists of parts or null become strings. Templates of
// text models add content to strings, so parts are joined by line feeds and null is the empty
// text, as other servers do. True when anything changed.
bool flatten_contents(Json& messages) {
  bool changed = false;
  for (Json& message : messages) {
    const auto content = message.find("content");
    if (content == message.end() || content->is_string()) continue;
    std::string text;
    if (content->is_array())
      for (std::size_t i = 0; i < content->size(); ++i)
        text += (i > 0 ? "\n" : "") + (*content)[i]["text"].get<std::string>();
    *content = text;
    changed = true;
  }
  return changed;
}

void read_messages(RequestFields& fields, node::ChatPrompt& out) {
  if (!fields.ok()) return;
  if (!fields.has("messages")) return fields.refuse("messages", "messages is missing.");
  const std::string_view raw = fields.raw("messages");
  Json messages = Json::parse(raw, nullptr, false);
  if (!messages.is_array()) return fields.refuse_type("messages", "a list");
  if (const Problem problem = check_messages(messages))
    return fields.refuse(problem->param, problem->message);
  bool add_prompt = true, continues = false;
  fields.boolean("add_generation_prompt", add_prompt);
  fields.boolean("continue_final_message", continues);
  if (continues && messages.back()["role"] != "assistant")
    fields.refuse("continue_final_message",
                  "continue_final_message needs a last message of the assistant; got one of the " +
                      messages.back()["role"].get<std::string>() + ".");
  if (continues && add_prompt && fields.has("add_generation_prompt"))
    fields.refuse("add_generation_prompt",
                  "add_generation_prompt must be false or absent with continue_final_message; got "
                  "true.");
  if (!continues && !add_prompt)
    fields.refuse("add_generation_prompt",
                  "add_generation_prompt false is only taken with continue_final_message.");
  out.continue_final = continues;
  out.messages_json = flatten_contents(messages) ? dump(messages) : std::string(raw);
}

// Tools may be named with tool_choice "none": they then change nothing.
void check_tools(RequestFields& fields) {
  const Json tools =
      fields.has("tools") ? Json::parse(fields.raw("tools"), nullptr, false) : Json();
  const Json choice =
      fields.has("tool_choice") ? Json::parse(fields.raw("tool_choice"), nullptr, false) : Json();
  if (!tools.is_null() && !tools.is_array()) return fields.refuse_type("tools", "a list");
  if (!choice.is_null() && !choice.is_string() && !choice.is_object())
    return fields.refuse_type("tool_choice", "a string or an object");
  const bool some = tools.is_array() && !tools.empty();
  if (choice.is_object() || choice == "required")
    return fields.refuse("tool_choice",
                         some ? "tool_choice other than \"none\" is not built yet in this server."
                              : "tool_choice needs a list of tools, and tools are not built yet in "
                                "this server.");
  if (choice.is_string() && choice != "none" && choice != "auto")
    return fields.refuse_type("tool_choice", "\"none\", \"auto\", \"required\" or an object");
  if (some && choice != "none")
    fields.refuse("tools",
                  "tools are not built yet in this server; leave them out or send "
                  "\"tool_choice\":\"none\".");
}

// "logprobs" is a switch and "top_logprobs" the number.
void read_logprobs(RequestFields& fields, node::GenerateRequest& out) {
  bool wanted = false;
  std::optional<std::int64_t> top;
  fields.boolean("logprobs", wanted);
  fields.integer("top_logprobs", 0, limits::kTopLogprobs, top);
  if (!wanted && top.value_or(0) > 0)
    fields.refuse("top_logprobs",
                  fmt::format("top_logprobs needs \"logprobs\":true; got {} without it.", *top));
  if (wanted) out.logprobs = static_cast<std::uint32_t>(top.value_or(0));
}

constexpr RequestFields::NotOffered kOfCompletions[] = {
    {"echo", RequestFields::Neutral::kFalse},
    {"suffix", RequestFields::Neutral::kEmpty},
    {"add_special_tokens", RequestFields::Neutral::kFalse},
};

}  // namespace

node::ChatPrompt read_chat_prompt(RequestFields& fields) {
  node::ChatPrompt out;
  read_messages(fields, out);
  check_tools(fields);
  fields.object("chat_template_kwargs", out.template_json);
  return out;
}

std::variant<AnswerRequest, ApiError> parse_chat_request(std::string_view body) {
  RequestFields fields(body, "\"messages\"");
  AnswerRequest out;
  out.generate.prompts.emplace_back(read_chat_prompt(fields));
  read_max_tokens(fields, 1, out);
  read_logprobs(fields, out.generate);
  for (const RequestFields::NotOffered& row : kOfCompletions) fields.not_offered(row);
  read_generate_fields(fields, out);
  if (fields.problem()) return *fields.problem();
  return out;
}

}  // namespace mesh::api
