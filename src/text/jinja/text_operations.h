#pragma once
// Python's string operations on text that keeps its origins; shared by methods and filters.

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/interpreter.h"
#include "text/marked_text.h"
#include "text/regex.h"

namespace mesh::text::jinja {

enum class Side { kBoth, kLeft, kRight };

// Drops white space, or the characters of `characters` if that is a string, from the ends.
MarkedText strip(Interpreter& in, const MarkedText& text, const Value& characters, Side side);
// `limit` < 0: all. The new text keeps its own origins.
MarkedText replace(Interpreter& in, const MarkedText& text, const MarkedText& from,
                   const MarkedText& to, std::int64_t limit);
// Python's split and rsplit; `separator` none or undefined: runs of white space.
std::vector<Value> split(Interpreter& in, const MarkedText& text, const Value& separator,
                         std::int64_t limit, bool from_right);
std::vector<Value> split_lines(Interpreter& in, const MarkedText& text, bool keep_ends);

enum class Case { kUpper, kLower, kTitle, kCapitalize, kSwap, kTitleFilter };
MarkedText change_case(Interpreter& in, const MarkedText& text, Case mode);

// Fills up to `width` characters; the text stands left, right or in the middle.
MarkedText pad(Interpreter& in, const MarkedText& text, std::int64_t width, const MarkedText& fill,
               Side text_side);

}  // namespace mesh::text::jinja
