#pragma once
// HTTP for chat and status: blocking requests with streaming bodies.

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/options.h"

namespace mesh::cli {

struct HttpReply {
  int status = 0;
  std::string body;  // empty when a body callback took it and the status was 200
};

// "http://127.0.0.1:8642" of the node that `target` means: --url, --port, the node.json of a
// running node in the data directory, or the default port. Errors: invalid_argument.
Result<std::string> target_url(const TargetOptions& target);

struct HttpCall {
  std::string path;
  std::string body = "";  // empty: GET
  // Sees the pieces of a 200 answer as they come and returns false to stop.
  std::function<bool(std::string_view)> on_body = {};
  // Asked at least every second; false ends the call with what has come so far.
  std::function<bool()> go_on = {};
};

// Errors: unavailable ("no node answers at …; start one with: toolkit-mesh run").
Result<HttpReply> http_request(const TargetOptions& target, const HttpCall& call);

// The sentence of an OpenAI error object, or the body's start.
std::string error_sentence(const HttpReply& reply);

}  // namespace mesh::cli
