// Input: a request target, NUL, a Host header and the value of another; and as pieces of a stream
// of text.

#include "api/http_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "api/json_text.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input = mesh::fuzz::text_of(data, size);
  const auto [target, host] = mesh::fuzz::two_parts(input);
  MESH_CHECK(mesh::api::split_target(target).path.size() <= target.size() + 1, "a longer path");
  (void)mesh::api::is_loopback_host(mesh::api::host_without_port(host));

  // No header value adds a line: the head has as many lines as with an empty value.
  const auto lines = [](std::string_view value) {
    const mesh::api::HttpHeaders headers = {{"X-Echo", std::string(value)}};
    mesh::api::ResponseHead head;
    head.headers = &headers;
    const std::string text = mesh::api::response_head(head);
    return std::count(text.begin(), text.end(), '\n');
  };
  MESH_CHECK(lines(input) == lines(""), "a header value broke the head");

  std::string quoted;
  mesh::api::append_json_string(quoted, input);
  MESH_CHECK(nlohmann::json::accept(quoted), "a JSON string that is none");

  // The outputs of the gate, joined, do not depend on where the text was cut.
  const auto through_gate = [&](std::size_t piece) {
    mesh::api::Utf8Gate gate;
    std::string out;
    for (std::size_t at = 0; at < input.size(); at += piece)
      out += gate.push(input.substr(at, piece));
    out += gate.flush();
    std::size_t replaced = 0;
    for (std::size_t at = out.find("\xEF\xBF\xBD"); at != out.npos; ++replaced)
      at = out.find("\xEF\xBF\xBD", at + 1);
    if (mesh::fuzz::planted(piece == 1 && replaced == 9 && size > 20)) out.pop_back();
    return out;
  };
  MESH_CHECK(size == 0 || through_gate(size) == through_gate(1), "cuts change the text");
  return 0;
}
