#pragma once
// JSON as text: what a stream writes per token without building documents, and what must be known
// about a request before and beside parsing it.

#include <cstddef>
#include <map>
#include <string>
#include <string_view>

namespace mesh::api {

// Appends a quoted JSON string. Bytes that are not UTF-8 become U+FFFD.
void append_json_string(std::string& out, std::string_view text);

// Makes whole, valid UTF-8 out of pieces that may be cut anywhere: an unfinished character waits
// for the next piece, invalid bytes become U+FFFD. Concatenated outputs do not depend on the cuts.
class Utf8Gate {
 public:
  std::string push(std::string_view piece);
  std::string flush();  // what was left unfinished

 private:
  std::string held_;
};

// True when arrays and objects nest deeper than `depth`. Looks at brackets outside strings only, so
// it may be asked about any text, before parsing.
bool json_deeper_than(std::string_view text, std::size_t depth);

// Raw texts of the members of an object, "exactly as sent", by decoded key; of repeated keys the
// last. `text` must be valid JSON and an object.
std::map<std::string, std::string_view> json_members(std::string_view text);

}  // namespace mesh::api
