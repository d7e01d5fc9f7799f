#pragma once
// Errors as OpenAI's clients expect them, and what failures inside the mesh become.

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "node/gateway.h"

namespace mesh::api {

// One error object {"error":{message,type,param,code}} and its HTTP status.
struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;                // "": null
  std::string code;                 // "": null
  std::uint32_t retry_after_s = 0;  // 0: no Retry-After
};

// A request that is wrong in `param` ("": as a whole).
ApiError bad_request(std::string_view param, std::string message);

std::string error_json(const ApiError& error);
// The same as a server-sent event.
std::string error_event(const ApiError& error);

// An error message with this prefix from the mesh is reported with code context_length_exceeded
// (and without the prefix): base codes do not tell it from other invalid arguments.
constexpr std::string_view kContextLengthPrefix = "context_length_exceeded: ";

// What a failure inside the mesh means to a client. `status` tells which layers lack a node and
// when to try again; `prompt_field` is the field which a prompt that is too long came in. The
// message of an invalid argument that begins with the name of a field names it as the param.
ApiError error_from_mesh(const Error& error, const node::MeshStatus& status,
                         std::string_view request_id, std::string_view prompt_field = "messages");

// 503 while no answer is possible: cluster_incomplete with the missing layers, or model_loading.
ApiError unavailable_error(const node::MeshStatus& status, std::string_view why);

// 404 for a model that is not the served one.
ApiError model_not_found(std::string_view model, const node::MeshStatus& status);

}  // namespace mesh::api
