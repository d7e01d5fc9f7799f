// Input: the body of POST /v1/chat/completions.

#include "api/chat_request.h"

#include <nlohmann/json.hpp>

#include "request_promises.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto parsed = mesh::api::parse_chat_request(mesh::fuzz::text_of(data, size));
  if (const auto* error = std::get_if<mesh::api::ApiError>(&parsed)) {
    mesh::fuzz::check_refusal(*error);
    return 0;
  }
  // What reaches the template is JSON of the promised kinds, cut out of the body as it was sent.
  auto& request = std::get<mesh::api::AnswerRequest>(parsed);
  if (mesh::fuzz::planted(request.generate.n + request.generate.min_tokens > 4))
    request.generate.best_of = 17;
  mesh::fuzz::check_promises(request);
  const auto& chat = std::get<mesh::node::ChatPrompt>(request.generate.prompts.front());
  MESH_CHECK(nlohmann::json::parse(chat.messages_json).is_array(), "messages are no list");
  if (!chat.tools_json.empty())
    MESH_CHECK(nlohmann::json::parse(chat.tools_json).is_array(), "tools are no list");
  if (!chat.template_json.empty())
    MESH_CHECK(nlohmann::json::parse(chat.template_json).is_object(), "no object of variables");
  return 0;
}
