#include "text/chat_template.h"

#include <nlohmann/json.hpp>

#include "text/jinja/template.h"

namespace mesh::text {

using jinja::Template;
using jinja::TemplateError;
using jinja::Value;

struct ChatTemplate::State {
  std::unique_ptr<Template> body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<State> state) : state_(std::move(state)) {}
ChatTemplate::~ChatTemplate() = default;

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::parse(std::string_view source) {
  auto body = Template::parse(source);
  if (!body.ok()) return body.error().with_context("chat template");
  auto state = std::make_unique<State>();
  state->body = std::move(body).value();
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(state)));
}

namespace {

Value checked_list(std::string_view json, std::string_view name) {
  Value value = jinja::from_json(json, Origin::kCaller, name);
  if (!value.is_list())
    throw TemplateError{Code::kInvalidArgument, std::string(name) + " is not a list"};
  return value;
}

Template::Variables variables_of(const ChatInputs& inputs) {
  Template::Variables out;
  out.emplace_back("documents", Value::none());
  if (!inputs.extra_json.empty()) {
    const Value extra = jinja::from_json(inputs.extra_json, Origin::kCaller, "template arguments");
    if (!extra.is_dict())
      throw TemplateError{Code::kInvalidArgument, "template arguments are not an object"};
    for (const auto& [key, value] : extra.as_dict().entries) out.emplace_back(key.bytes(), value);
  }
  // Later entries win, so none of these can come from the caller's arguments.
  out.emplace_back("messages", checked_list(inputs.messages_json, "messages"));
  out.emplace_back("tools", inputs.tools_json.empty() ? Value::none()
                                                      : checked_list(inputs.tools_json, "tools"));
  out.emplace_back("add_generation_prompt", Value::boolean(inputs.add_generation_prompt));
  const auto token = [](const std::string& text) {
    return text.empty() ? Value() : Value::text(text, Origin::kTemplate);
  };
  out.emplace_back("bos_token", token(inputs.bos_token));
  out.emplace_back("eos_token", token(inputs.eos_token));
  return out;
}

}  // namespace

Result<SpanText> ChatTemplate::render(const ChatInputs& inputs) const {
  return state_->body->render([&] { return variables_of(inputs); }, inputs.unix_seconds);
}

}  // namespace mesh::text
