#pragma once
// The fields which chat and plain completions share.

#include <cstdint>
#include <string>

#include "api/request_fields.h"
#include "node/gateway.h"

namespace mesh::api {

// A request for one or more answers, checked as far as that is possible without the model.
struct AnswerRequest {
  node::GenerateRequest generate;  // without request_id
  std::string model;               // "": whichever is served
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;  // usage in every chunk
};

// Reads all of them into `out`, whose prompts are known already; problems stay in `fields`.
// Every field is obeyed, known to change nothing, or refused by name; unknown ones are ignored.
void read_generate_fields(RequestFields& fields, AnswerRequest& out);

// max_tokens and max_completion_tokens (the second wins), at least `low`.
void read_max_tokens(RequestFields& fields, std::uint32_t low, AnswerRequest& out);

}  // namespace mesh::api
