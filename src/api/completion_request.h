#pragma once
// The body of POST /v1/completions.

#include <string_view>
#include <variant>

#include "api/generate_fields.h"

namespace mesh::api {

// Never throws on any bytes.
std::variant<AnswerRequest, ApiError> parse_completion_request(std::string_view body);

}  // namespace mesh::api
