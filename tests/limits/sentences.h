#pragma once
// What the real parsers say of an input.

#include <functional>
#include <map>
#include <string>

namespace mesh::limits_test {

constexpr const char* kAccepted = "(accepted)";

// How → what the parser says of the input, kAccepted when nothing is wrong. See fields.txt.
const std::map<std::string, std::function<std::string(const std::string&)>>& ways();
std::string said(const std::string& how, const std::string& input);

// A safetensors file with that header and `data_bytes` of data.
std::string safetensors_says(const std::string& header, std::size_t data_bytes);
// The text of a tokenizer.json that is accepted, with a JSON merge patch applied.
std::string patched_tokenizer(const std::string& patch);
// A file of that size which takes no room, gone at the end of the process.
std::string sparse_file(std::uint64_t bytes);

}  // namespace mesh::limits_test
