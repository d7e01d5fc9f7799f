#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "text/jinja/format.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text_operations.h"
#include "text/utf8.h"

namespace mesh::text::jinja {
namespace {

Value default_filter(Interpreter&, const Value& input, const Arguments& args) {
  const Bound bound("default", args, {"default_value", "boolean"});
  const bool replaced = input.is_undefined() || (bound.flag(1, false) && !input.truthy());
  if (!replaced) return input;
  return bound.has(0) ? bound[0] : Value::text(MarkedText());
}

Value string_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("string", args, {});
  return input.is_text() ? input : Value::text(in.str(input));
}

Value same_filter(Interpreter&, const Value& input, const Arguments&) {
  return input;
}

template <Case kCase>
Value case_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("case filter", args, {});
  return Value::text(change_case(in, in.str(input), kCase));
}

Value trim_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("trim", args, {"chars"});
  return in.make(strip(in, in.str(input), bound[0], Side::kBoth));
}

Value replace_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("replace", args, {"old", "new", "count"});
  return in.make(replace(in, in.str(input), in.str(bound.required(0)), in.str(bound.required(1)),
                         bound.integer(2, -1)));
}

Value tojson_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("tojson", args, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  Origin origin = Origin::kTemplate;
  style.ensure_ascii = bound.flag(0, false);
  style.sort_keys = bound.flag(3, false);
  if (bound.has(1) && !bound[1].is_none()) {
    style.indented = true;
    style.item_separator.assign(1, ',');
    if (bound[1].is_text()) {
      style.indent = bound[1].bytes();
      origin = either(origin, bound[1].as_text().origin());
    } else {
      const std::int64_t width = bound.integer(1, 0);
      if (width > 1000) in.fail("tojson: the indent is too wide");
      style.indent.assign(static_cast<std::size_t>(std::max<std::int64_t>(width, 0)), ' ');
    }
  }
  if (bound.has(2) && !bound[2].is_none()) {
    const ListPtr parts = in.iterate(bound[2]);
    if (parts->items.size() != 2 || !parts->items[0].is_text() || !parts->items[1].is_text())
      in.fail("tojson: separators are two strings");
    style.item_separator = parts->items[0].bytes();
    style.key_separator = parts->items[1].bytes();
    origin = either(origin,
                    either(parts->items[0].as_text().origin(), parts->items[1].as_text().origin()));
  }
  std::string json = to_json(input, style, origin);
  in.charge(json.size() / 16);
  return in.make(std::move(json), origin);
}

Value indent_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("indent", args, {"width", "first", "blank"});
  MarkedText by;
  if (bound.has(0) && bound[0].is_text()) {
    by = bound[0].as_text();
  } else {
    const std::int64_t width = std::max<std::int64_t>(bound.integer(0, 4), 0);
    if (width > 1000) in.fail("indent: the width is too large");
    by = MarkedText(std::string(static_cast<std::size_t>(width), ' '), Origin::kTemplate);
  }
  MarkedText text = in.str(input);
  text.append("\n",
              Origin::kTemplate);  // so that a trailing newline keeps its empty line, as in jinja2
  const std::vector<Value> lines = split_lines(in, text, false);
  MarkedText out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const MarkedText& line = lines[i].as_text();
    if (i > 0) out.append("\n", Origin::kTemplate);
    if ((i > 0 && (bound.flag(2, false) || !line.empty())) || (i == 0 && bound.flag(1, false))) {
      in.charge_bytes(by.size());
      out.append(by);
    }
    out.append(line);
  }
  return in.make(std::move(out));
}

Value escape_filter(Interpreter& in, const Value& input, const Arguments&) {
  static constexpr std::pair<std::string_view, std::string_view> kTable[] = {
      {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
  MarkedText text = in.str(input);
  for (const auto& [from, to] : kTable) {
    text = replace(in, text, MarkedText(std::string(from), Origin::kTemplate),
                   MarkedText(std::string(to), Origin::kTemplate), -1);
  }
  return in.make(std::move(text));
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && is_space(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return text;
}

Value int_filter(Interpreter&, const Value& input, const Arguments& args) {
  const Bound bound("int", args, {"default", "base"});
  const Value fallback = bound.has(0) ? bound[0] : Value::integer(0);
  if (input.is_integral()) return Value::integer(input.as_int(), input.scalar_origin());
  double real = 0;
  Origin origin = input.scalar_origin();
  if (input.is_text()) {
    origin = input.as_text().origin();
    std::string_view text = trimmed(input.bytes());
    const bool plus = text.size() > 1 && text.front() == '+' && text[1] != '-';
    if (plus) text.remove_prefix(1);
    const std::int64_t base = bound.integer(1, 10);
    if (base == 16 && text.substr(0, 2) == "0x") text.remove_prefix(2);
    if (base == 8 && text.substr(0, 2) == "0o") text.remove_prefix(2);
    if (base == 2 && text.substr(0, 2) == "0b") text.remove_prefix(2);
    if (base < 2 || base > 36) return fallback;
    std::int64_t value = 0;
    const char* end = text.data() + text.size();
    auto parsed = std::from_chars(text.data(), end, value, static_cast<int>(base));
    if (parsed.ec == std::errc() && parsed.ptr == end && !text.empty())
      return Value::integer(value, origin);
    const auto as_real = std::from_chars(text.data(), end, real);
    if (as_real.ec != std::errc() || as_real.ptr != end || text.empty()) return fallback;
  } else if (input.is_real()) {
    real = input.as_real();
  } else {
    return fallback;
  }
  if (!(std::abs(real) < 9.2e18)) return fallback;
  return Value::integer(static_cast<std::int64_t>(real), origin);
}

Value float_filter(Interpreter&, const Value& input, const Arguments& args) {
  const Bound bound("float", args, {"default"});
  const Value fallback = bound.has(0) ? bound[0] : Value::real(0);
  if (input.is_number()) return Value::real(input.as_real(), input.scalar_origin());
  if (!input.is_text()) return fallback;
  std::string_view text = trimmed(input.bytes());
  if (text.size() > 1 && text.front() == '+' && text[1] != '-') text.remove_prefix(1);
  double real = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), real);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || text.empty())
    return fallback;
  return Value::real(real, input.as_text().origin());
}

Value abs_filter(Interpreter& in, const Value& input, const Arguments&) {
  if (!input.is_number())
    in.fail(fmt::format("bad operand type for abs(): '{}'", input.type_name()));
  if (input.is_real()) return Value::real(std::abs(input.as_real()), input.scalar_origin());
  return input.as_int() < 0 ? in.arithmetic(Op::kSub, Value::integer(0), input) : input;
}

Value round_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("round", args, {"precision", "method"});
  if (!input.is_number()) in.fail(fmt::format("round: '{}' is not a number", input.type_name()));
  const std::string method = bound.has(1) ? in.str(bound[1]).bytes() : "common";
  const auto precision = static_cast<int>(std::clamp<std::int64_t>(bound.integer(0, 0), -300, 300));
  const double value = input.as_real();
  if (method == "common") {
    if (input.is_integral() && precision >= 0)
      return Value::integer(input.as_int(), input.scalar_origin());
    // Python rounds the decimal value of the double, half to even: so does printing with that many
    // digits.
    if (precision >= 0 && std::abs(value) < 1e22) {
      const std::string text = fmt::format("{:.{}f}", value, std::min(precision, 40));
      double rounded = 0;
      std::from_chars(text.data(), text.data() + text.size(), rounded);
      return Value::real(rounded, input.scalar_origin());
    }
    const double scale = std::pow(10.0, precision);
    return Value::real(std::nearbyint(value * scale) / scale, input.scalar_origin());
  }
  if (method != "ceil" && method != "floor") in.fail("round: method must be common, ceil or floor");
  const double scale = std::pow(10.0, precision);
  const double scaled = value * scale;
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale,
                     input.scalar_origin());
}

Value length_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("length", args, {});
  std::size_t length = 0;
  if (input.is_text()) {
    in.charge(1 + (input.as_text().ascii() ? 0 : input.as_text().size() / 64));
    length = input.as_text().ascii() ? input.as_text().size() : count_code_points(input.bytes());
  } else if (input.is_list()) {
    length = input.as_list().items.size();
  } else if (input.is_dict()) {
    length = input.as_dict().entries.size();
  } else if (!input.is_undefined()) {
    in.fail(fmt::format("object of type '{}' has no len()", input.type_name()));
  }
  return Value::integer(static_cast<std::int64_t>(length));
}

Value wordcount_filter(Interpreter& in, const Value& input, const Arguments&) {
  const std::size_t count = split(in, in.str(input), Value(), -1, false).size();
  return Value::integer(static_cast<std::int64_t>(count));
}

Value format_filter(Interpreter& in, const Value& input, const Arguments& args) {
  if (!args.named.empty()) in.fail("format: named values are not supported");
  const MarkedText format = in.str(input);
  Origin origin = format.origin();
  const Value values = Value::list(args.positional, true);
  std::string text = format_percent(format.bytes(), values, origin);
  return in.make(std::move(text), origin);
}

Value center_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("center", args, {"width"});
  return Value::text(pad(in, in.str(input), bound.integer(0, 80),
                         MarkedText(" ", Origin::kTemplate), Side::kBoth));
}

Value truncate_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("truncate", args, {"length", "killwords", "end", "leeway"});
  const MarkedText text = in.str(input);
  in.charge(1 + text.size() / 64);
  const std::int64_t length = bound.integer(0, 255);
  const MarkedText end = bound.has(2) ? in.str(bound[2]) : MarkedText("...", Origin::kTemplate);
  const auto end_length = static_cast<std::int64_t>(count_code_points(end.bytes()));
  if (length < end_length) in.fail(fmt::format("truncate: expected length >= {}", end_length));
  if (static_cast<std::int64_t>(count_code_points(text.bytes())) <= length + bound.integer(3, 5))
    return in.make(text);
  std::size_t cut = code_point_offset(text.bytes(), static_cast<std::size_t>(length - end_length));
  if (!bound.flag(1, false)) {
    const std::size_t space = text.bytes().rfind(' ', cut == 0 ? 0 : cut - 1);
    if (space != std::string::npos && space < cut) cut = space;
  }
  MarkedText out = text.slice(0, cut);
  out.append(end);
  return in.make(std::move(out));
}

Value attr_filter(Interpreter& in, const Value& input, const Arguments& args) {
  const Bound bound("attr", args, {"name"});
  const std::string name = in.str(bound.required(0)).bytes();
  // Attributes only, never items: a dict has none but its methods.
  if (input.is_dict() && !has_method(input, name))
    return Value::undefined(fmt::format("no attribute '{}'", name));
  return in.attribute(input, name);
}

}  // namespace

Filter find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kTable = {
      {"default", default_filter},
      {"d", default_filter},
      {"string", string_filter},
      {"safe", same_filter},
      {"upper", case_filter<Case::kUpper>},
      {"lower", case_filter<Case::kLower>},
      {"title", case_filter<Case::kTitleFilter>},
      {"capitalize", case_filter<Case::kCapitalize>},
      {"trim", trim_filter},
      {"replace", replace_filter},
      {"tojson", tojson_filter},
      {"indent", indent_filter},
      {"escape", escape_filter},
      {"e", escape_filter},
      {"int", int_filter},
      {"float", float_filter},
      {"abs", abs_filter},
      {"round", round_filter},
      {"length", length_filter},
      {"count", length_filter},
      {"wordcount", wordcount_filter},
      {"format", format_filter},
      {"center", center_filter},
      {"truncate", truncate_filter},
      {"attr", attr_filter},
  };
  const auto it = kTable.find(name);
  return it == kTable.end() ? nullptr : it->second;
}

}  // namespace mesh::text::jinja
