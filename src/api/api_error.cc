#include "api/api_error.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/json_text.h"
#include "base/error_table.h"

namespace mesh::api {
namespace {

std::string missing_text(const node::MeshStatus& status) {
  std::string out;
  for (const LayerRange& range : status.missing)
    out += (out.empty() ? "" : ", ") + range.to_string();
  return out;
}

std::uint32_t retry_after(const node::MeshStatus& status) {
  return std::max(status.retry_after_s, 1u);
}

// Fields which only the mesh can judge, since it knows the vocabulary and the context.
constexpr std::string_view kJudgedByTheMesh[] = {"logit_bias", "stop_token_ids", "prompt",
                                                 "messages",   "max_tokens",     "tokens",
                                                 "min_tokens", "logprobs",       "stop"};

std::string_view named_field(std::string_view message) {
  const std::string_view word = message.substr(0, message.find_first_of(" :[."));
  const bool known = std::find(std::begin(kJudgedByTheMesh), std::end(kJudgedByTheMesh), word) !=
                     std::end(kJudgedByTheMesh);
  return known ? word : std::string_view();
}

}  // namespace

ApiError bad_request(std::string_view param, std::string message) {
  ApiError error;
  error.param = std::string(param);
  error.message = std::move(message);
  return error;
}

std::string error_json(const ApiError& error) {
  std::string out = "{\"error\":{\"message\":";
  const auto text_or_null = [&out](const std::string& text) {
    if (text.empty())
      out += "null";
    else
      append_json_string(out, text);
  };
  append_json_string(out, error.message);
  out += ",\"type\":";
  append_json_string(out, error.type);
  out += ",\"param\":";
  text_or_null(error.param);
  out += ",\"code\":";
  text_or_null(error.code);
  out += "}}";
  return out;
}

std::string error_event(const ApiError& error) {
  return "data: " + error_json(error) + "\n\n";
}

ApiError unavailable_error(const node::MeshStatus& status, std::string_view why) {
  ApiError out;
  out.status = 503;
  out.type = "unavailable_error";
  out.retry_after_s = retry_after(status);
  if (status.ready) {
    out.code = "unavailable";
    out.message = std::string(why);
    return out;
  }
  out.code = status.missing.empty() ? "model_loading" : "cluster_incomplete";
  const std::string layers = missing_text(status);
  const auto names_layers = [&](std::string_view text) {
    return !layers.empty() && text.find(layers) != std::string_view::npos;
  };
  if (status.missing.empty()) {
    out.message = std::string(why);
  } else if (names_layers(why)) {
    out.message = fmt::format("{} is not complete: {}", status.model, why);
  } else {
    out.message = fmt::format("No node serves the layers {} of {}.{}{}", layers, status.model,
                              why.empty() ? "" : " ", why);
  }
  if (!status.waiting_for.empty() && status.waiting_for != why && !names_layers(status.waiting_for))
    out.message += " Waiting for: " + status.waiting_for;
  return out;
}

ApiError model_not_found(std::string_view model, const node::MeshStatus& status) {
  ApiError out;
  out.status = 404;
  out.code = "model_not_found";
  out.message = fmt::format("The model \"{}\" is not served here. Served: {}.", model,
                            status.model.empty() ? "none yet" : status.model);
  return out;
}

ApiError error_from_mesh(const Error& error, const node::MeshStatus& status,
                         std::string_view request_id, std::string_view prompt_field) {
  ApiError out;
  out.status = http_status(error.code);
  out.message = error.message;
  switch (error.code) {
    case Code::kInvalidArgument:
      out.param = std::string(named_field(out.message));
      if (out.message.rfind(kContextLengthPrefix, 0) == 0) {
        out.message = out.message.substr(kContextLengthPrefix.size());
        out.code = "context_length_exceeded";
        out.param = std::string(prompt_field);
      }
      return out;
    case Code::kUnsupported:
      out.code = "unsupported";
      return out;
    case Code::kNotFound:
      out.type = "not_found_error";
      out.code = "not_found";
      return out;
    case Code::kPermissionDenied:
      out.type = "permission_error";
      out.code = "permission_denied";
      return out;
    case Code::kUnavailable:
      return unavailable_error(status, error.message);
    case Code::kResourceExhausted:
      out.type = "rate_limit_error";
      out.code = "queue_full";
      out.retry_after_s = retry_after(status);
      return out;
    default:
      break;
  }
  out.type = "server_error";
  out.code = error.code == Code::kDeadlineExceeded ? "node_timeout"
             : error.code == Code::kCancelled      ? "cancelled"
                                                   : "server_error";
  out.message += fmt::format(" (request {})", request_id);
  return out;
}

}  // namespace mesh::api
