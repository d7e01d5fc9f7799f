#pragma once
// The tokenizer of a GGUF file as the hub's files.

#include <string>

#include "base/result.h"
#include "formats/gguf.h"

namespace mesh::formats {

struct GgufTokenizer {
  std::string tokenizer_json;  // both empty if the file holds no tokenizer
  std::string tokenizer_config_json;
  std::string chat_template;           // empty if there is none
  std::vector<std::int64_t> stop_ids;  // ends of turn, text and message, as far as named
};

// Reads tokenizer.ggml.* and tokenizer.chat_template. Byte-level BPE only. Control tokens become
// special added tokens, user-defined ones added tokens that are not special; unused ids have no
// token. Errors: unsupported (tokenizer model or pre-tokenizer, by name), corrupt, not_found.
Result<GgufTokenizer> gguf_tokenizer(const GgufMetadata& metadata);

}  // namespace mesh::formats
