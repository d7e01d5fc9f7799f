// Input: the body of POST /v1/chat/completions.

#include <nlohmann/json.hpp>

#include "api/json_text.h"
#include "api/openai_types.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto body = mesh::fuzz::text_of(data, size);
  const auto parsed = mesh::api::parse_chat_request(body);
  if (const auto* error = std::get_if<mesh::api::ApiError>(&parsed)) {
    MESH_CHECK(error->status >= 400 && error->status < 500, "status {}", error->status);
    MESH_CHECK(nlohmann::json::accept(mesh::api::error_json(*error)), "an error that is no JSON");
    return 0;
  }
  // What reaches the template is JSON of the promised kinds, cut out of the body as it was sent.
  const auto& generate = std::get<mesh::api::ChatRequest>(parsed).generate;
  const auto& chat = std::get<mesh::node::ChatPrompt>(generate.prompts.front());
  MESH_CHECK(nlohmann::json::parse(chat.messages_json).is_array(), "messages are no list");
  if (!chat.tools_json.empty())
    MESH_CHECK(nlohmann::json::parse(chat.tools_json).is_array(), "tools are no list");
  if (!chat.template_json.empty())
    MESH_CHECK(nlohmann::json::parse(chat.template_json).is_object(), "no object of variables");
  return 0;
}
