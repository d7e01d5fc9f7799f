#pragma once
// Values as text, the way Python prints them.

#include <cstdint>
#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace mesh::text::jinja {

std::string float_repr(double d);  // shortest digits that read back, "1.0", "1e+16", "nan"
// Python's repr. `origin` becomes kCaller if anything in the value is the caller's.
std::string repr(const Value& value, Origin& origin);

struct JsonStyle {
  bool indented = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};
// Python's json.dumps. Throws TemplateError for what has no JSON. `origin` as for repr.
std::string to_json(const Value& value, const JsonStyle& style, Origin& origin);

// time.strftime in UTC and the C locale. Throws TemplateError for a directive that is not
// supported.
std::string format_time(std::string_view format, std::int64_t unix_seconds);

// Python's `format % values` with s r d i x f e g and %%. Throws TemplateError.
std::string format_percent(std::string_view format, const Value& values, Origin& origin);

}  // namespace mesh::text::jinja
