#pragma once
// Cuts a template into text and the tokens of its tags.

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace mesh::text::jinja {

struct Token {
  enum class Kind {
    kData,  // literal text, white space control applied
    kVariableBegin,
    kVariableEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kInteger,
    kFloat,
    kString,  // `text` is the value, escapes resolved
    kOperator,
    kEnd,
  };
  Kind kind = Kind::kEnd;
  std::string text;
  int line = 1;
};

// A syntax error with its line.
struct SyntaxError {
  std::string message;
  int line = 0;
};

// The environment of chat templates: trim_blocks, lstrip_blocks, keep_trailing_newline off. Throws
// SyntaxError. Source: Jinja 3.1, lexer.py.
std::vector<Token> tokenize(std::string_view source);

}  // namespace mesh::text::jinja
