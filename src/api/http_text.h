#pragma once
// The textual side of HTTP/1.1 that needs no sockets: heads of responses, targets, host names.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mesh::api {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

// "Not Found"; "Unknown" for a status that is not in the table.
std::string_view reason_phrase(int status);

// How the body of a response is delimited (RFC 9112 section 6).
enum class BodyKind {
  kLength,      // Content-Length
  kChunked,     // Transfer-Encoding: chunked
  kUntilClose,  // HTTP/1.0 streams
  kNone,        // 204, 304
};

struct ResponseHead {
  int status = 200;
  const HttpHeaders* headers = nullptr;
  BodyKind body = BodyKind::kLength;
  std::size_t length = 0;
  bool keep_alive = true;
  bool http10 = false;
  std::int64_t unix_seconds = 0;  // for the Date header
};

// Status line, Date, framing and connection headers, the caller's headers, blank line. Control
// characters in header values become blanks, so that no value can add a header.
std::string response_head(const ResponseHead& head);

std::string to_lower(std::string_view text);  // ASCII only
std::string_view trim(std::string_view text);
bool equals_ignore_case(std::string_view a, std::string_view b);

struct Target {
  std::string path;   // percent-decoded; the raw text where the escapes are malformed
  std::string query;  // raw
};
// Splits an origin-form ("/a?b") or absolute-form ("http://h/a?b") request target.
Target split_target(std::string_view target);

// "[::1]:80" → "::1", "localhost:80" → "localhost".
std::string host_without_port(std::string_view host);

// "localhost", 127.0.0.0/8 in dotted form, "::1" (with or without brackets).
bool is_loopback_host(std::string_view host);

}  // namespace mesh::api
