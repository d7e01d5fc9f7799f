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

// Stands behind the last message's content while the template is rendered, so that the content's
// end is found whatever the template does with it (trimming, cutting out reasoning). Private use
// characters: no text means anything by them.
constexpr std::string_view kContentEnd = "\xEE\x80\x80mesh:end-of-content\xEE\x80\x81";

// A text with kContentEnd behind it, or a list of parts with it behind the last text.
Value marked_content(const Value& content) {
  if (content.is_text())
    return Value::text(content.bytes() + std::string(kContentEnd), Origin::kCaller);
  if (content.is_list()) {
    std::vector<Value> parts = content.as_list().items;
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
      const Value* text = part->is_dict() ? part->as_dict().find("text") : nullptr;
      if (text == nullptr || !text->is_text()) continue;
      jinja::Dict changed = part->as_dict();
      changed.set(Value::text("text"), marked_content(*text));
      *part = Value::dict(std::move(changed));
      return Value::list(std::move(parts));
    }
  }
  throw TemplateError{Code::kInvalidArgument,
                      "the last message has no text that could be continued"};
}

Value marked_messages(const Value& messages) {
  std::vector<Value> items = messages.as_list().items;
  const Value* role =
      items.empty() || !items.back().is_dict() ? nullptr : items.back().as_dict().find("role");
  if (role == nullptr || !role->is_text() || role->bytes() != "assistant")
    throw TemplateError{Code::kInvalidArgument,
                        "only an answer can be continued: the last message is not the assistant's"};
  const Value* content = items.back().as_dict().find("content");
  jinja::Dict changed = items.back().as_dict();
  changed.set(Value::text("content"), marked_content(content == nullptr ? Value() : *content));
  items.back() = Value::dict(std::move(changed));
  return Value::list(std::move(items));
}

// Cuts a prompt where its last kContentEnd stands.
Result<SpanText> cut_at_content_end(SpanText spans) {
  while (!spans.empty()) {
    std::string& text = spans.back().text;
    const std::size_t at = text.rfind(kContentEnd);
    if (at != std::string::npos) {
      text.resize(at);
      if (text.empty()) spans.pop_back();
      return spans;
    }
    spans.pop_back();
  }
  return Error(Code::kInvalidArgument,
               "the last message cannot be continued: the template does not show its content");
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
  const Value messages = checked_list(inputs.messages_json, "messages");
  out.emplace_back("messages", inputs.continue_final ? marked_messages(messages) : messages);
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
  MESH_ASSIGN_OR_RETURN(SpanText spans, state_->body->render([&] { return variables_of(inputs); },
                                                             inputs.unix_seconds));
  if (inputs.continue_final) return cut_at_content_end(std::move(spans));
  return spans;
}

}  // namespace mesh::text
