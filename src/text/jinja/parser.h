#pragma once
// Tokens of a template to its tree.

#include <string_view>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace mesh::text::jinja {

// Throws SyntaxError. Nesting is bounded by limits::kTemplateDepth. Source: Jinja 3.1, parser.py.
Program parse_program(std::string_view source);

}  // namespace mesh::text::jinja
