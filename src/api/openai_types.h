#pragma once
// The OpenAI-shaped side of the API: requests read and checked, errors and answers written.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

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

std::string error_json(const ApiError& error);

// An error message with this prefix from the mesh is reported with code context_length_exceeded
// (and without the prefix): base codes do not tell it from other invalid arguments.
constexpr std::string_view kContextLengthPrefix = "context_length_exceeded: ";

// What a failure inside the mesh means to a client. `status` tells which layers lack a node.
ApiError error_from_mesh(const Error& error, const node::MeshStatus& status,
                         std::string_view request_id);

// 503 while no answer is possible: cluster_incomplete with the missing layers, or model_loading.
ApiError unavailable_error(const node::MeshStatus& status, std::string_view why);

struct ChatRequest {
  node::GenerateRequest generate;  // without request_id
  std::string model;               // "": whichever is served
  bool stream = false;
  bool include_usage = false;
};

// Reads the body of POST /v1/chat/completions. Every field is either obeyed, known to change
// nothing, or refused by name; unknown fields are ignored. Never throws on any bytes.
std::variant<ChatRequest, ApiError> parse_chat_request(std::string_view body);

// Fields shared by all chunks of an answer.
struct AnswerIdentity {
  std::string id;  // "chatcmpl-…"
  std::int64_t created = 0;
  std::string model;
  std::string fingerprint;  // "fp_…"
  bool include_usage = false;
};

std::string system_fingerprint(const node::MeshStatus& status);

// Everything of a text chunk before and after the JSON string of its text, so that a token costs an
// escape and two copies.
struct ChunkFrame {
  std::string before, after;
};
ChunkFrame text_chunk_frame(const AnswerIdentity& identity);

// Server-sent events, "data: …\n\n" each.
std::string role_event(const AnswerIdentity& identity);
std::string finish_event(const AnswerIdentity& identity, node::FinishReason reason,
                         const node::Usage& usage, const node::Timings& timings);
std::string usage_event(const AnswerIdentity& identity, const node::Usage& usage);
std::string error_event(const ApiError& error);
constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

// The body of an answer that is not streamed.
std::string completion_json(const AnswerIdentity& identity, std::string_view text,
                            node::FinishReason reason, const node::Usage& usage,
                            const node::Timings& timings);

}  // namespace mesh::api
