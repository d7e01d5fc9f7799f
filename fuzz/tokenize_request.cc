// Input: the body of POST /tokenize and of POST /detokenize; and a text as the bytes of a token.

#include "api/tokenize_request.h"

#include <nlohmann/json.hpp>

#include "request_promises.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto body = mesh::fuzz::text_of(data, size);
  const auto tokenize = mesh::api::parse_tokenize_request(body);
  if (const auto* error = std::get_if<mesh::api::ApiError>(&tokenize))
    mesh::fuzz::check_refusal(*error);
  auto detokenize = mesh::api::parse_detokenize_request(body);
  if (const auto* error = std::get_if<mesh::api::ApiError>(&detokenize))
    mesh::fuzz::check_refusal(*error);
  else {
    auto& tokens = std::get<mesh::api::DetokenizeCall>(detokenize).tokens;
    if (mesh::fuzz::planted(tokens.size() == 3 && tokens[1] > 2)) tokens.back() = -1;
    for (const mesh::TokenId id : tokens) MESH_CHECK(id >= 0, "token {}", id);
  }
  const std::string text(body);
  MESH_CHECK(nlohmann::json::accept(mesh::api::tokenize_json({{1, text, {}, {}}}, 8, true)),
             "tokens that are no JSON");
  MESH_CHECK(nlohmann::json::accept(mesh::api::detokenize_json(text)), "a text that is no JSON");
  return 0;
}
