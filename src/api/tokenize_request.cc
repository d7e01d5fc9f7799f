#include "api/tokenize_request.h"

#include "api/chat_request.h"
#include "api/json_text.h"
#include "base/limits.h"

namespace mesh::api {

std::variant<TokenizeCall, ApiError> parse_tokenize_request(std::string_view body) {
  RequestFields fields(body, "\"prompt\" or \"messages\"");
  TokenizeCall out;
  int sources = 0;
  for (const char* name : {"prompt", "content", "messages"}) sources += fields.has(name) ? 1 : 0;
  if (fields.ok() && sources != 1)
    fields.refuse("prompt", sources == 0 ? "prompt is missing; \"content\" or \"messages\" will do."
                                         : "prompt, content and messages exclude each other.");
  if (fields.has("messages")) {
    out.request.prompt = read_chat_prompt(fields);
  } else {
    std::string text;
    fields.text("prompt", text);
    fields.text("content", text);
    out.request.prompt = std::move(text);
  }
  fields.text("model", out.model);
  fields.boolean("add_special", out.request.add_special);
  fields.boolean("add_special_tokens", out.request.add_special);
  fields.boolean("with_pieces", out.with_pieces);
  fields.boolean("return_token_strs", out.with_pieces);
  if (fields.problem()) return *fields.problem();
  return out;
}

std::variant<DetokenizeCall, ApiError> parse_detokenize_request(std::string_view body) {
  RequestFields fields(body, "\"tokens\"");
  DetokenizeCall out;
  if (fields.ok() && !fields.has("tokens")) fields.refuse("tokens", "tokens is missing.");
  fields.token_ids("tokens", limits::kContext, true, out.tokens);
  fields.text("model", out.model);
  if (fields.problem()) return *fields.problem();
  return out;
}

std::string tokenize_json(const std::vector<node::TokenText>& tokens, std::uint32_t context,
                          bool with_pieces) {
  std::string out = "{\"tokens\":[";
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    out += std::to_string(tokens[i].token);
  }
  out += "],\"count\":" + std::to_string(tokens.size());
  out += ",\"max_model_len\":" + std::to_string(context);
  if (with_pieces) {
    out += ",\"token_strs\":[";
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0) out += ',';
      append_json_string(out, tokens[i].bytes);
    }
    out += ']';
  }
  return out + "}";
}

std::string detokenize_json(std::string_view text) {
  std::string out = "{\"prompt\":";
  append_json_string(out, text);
  out += ",\"content\":";
  append_json_string(out, text);
  return out + "}";
}

}  // namespace mesh::api
