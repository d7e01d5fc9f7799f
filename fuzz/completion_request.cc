// Input: the body of POST /v1/completions.

#include "api/completion_request.h"

#include "request_promises.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto parsed = mesh::api::parse_completion_request(mesh::fuzz::text_of(data, size));
  if (const auto* error = std::get_if<mesh::api::ApiError>(&parsed)) {
    mesh::fuzz::check_refusal(*error);
    return 0;
  }
  auto& request = std::get<mesh::api::AnswerRequest>(parsed);
  mesh::fuzz::check_promises(request);
  for (mesh::node::PromptInput& prompt : request.generate.prompts)
    if (auto* ids = std::get_if<std::vector<mesh::TokenId>>(&prompt)) {
      if (mesh::fuzz::planted(*std::max_element(ids->begin(), ids->end()) > 3)) ids->back() = -1;
      MESH_CHECK(!ids->empty() && *std::min_element(ids->begin(), ids->end()) >= 0, "bad ids");
    }
  return 0;
}
