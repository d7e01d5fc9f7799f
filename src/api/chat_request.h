#pragma once
// The body of POST /v1/chat/completions, and of other routes that take a chat.

#include <string_view>
#include <variant>

#include "api/generate_fields.h"

namespace mesh::api {

// Never throws on any bytes.
std::variant<AnswerRequest, ApiError> parse_chat_request(std::string_view body);

// "messages" and what says how they become a prompt: continue_final_message,
// add_generation_prompt, chat_template_kwargs, tools. Problems stay in `fields`.
node::ChatPrompt read_chat_prompt(RequestFields& fields);

}  // namespace mesh::api
