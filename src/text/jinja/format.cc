#include "text/jinja/format.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "base/limits.h"
#include "text/utf8.h"

namespace mesh::text::jinja {
namespace {

[[noreturn]] void fail(std::string message, Code code = Code::kInvalidArgument) {
  throw TemplateError{code, std::move(message)};
}

void check_size(const std::string& out) {
  if (out.size() > limits::kTemplateOutputBytes)
    fail(fmt::format("a text of more than {} bytes", limits::kTemplateOutputBytes),
         Code::kResourceExhausted);
}

bool printable(char32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

void repr_text(std::string_view text, std::string& out) {
  const bool single = text.find('\'') != std::string_view::npos;
  const char quote = single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out += quote;
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    const char32_t c = step.code_point;
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (printable(c)) {
      out += text.substr(0, step.bytes);
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(c));
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<unsigned>(c));
    }
    text.remove_prefix(step.bytes);
  }
  out += quote;
}

void repr_into(const Value& value, std::string& out, Origin& origin) {
  check_size(out);
  origin = either(origin, value.scalar_origin());
  if (value.is_none()) {
    out += "None";
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "True" : "False";
  } else if (value.is_int()) {
    out += std::to_string(value.as_int());
  } else if (value.is_real()) {
    out += float_repr(value.as_real());
  } else if (value.is_text()) {
    origin = either(origin, value.as_text().origin());
    repr_text(value.bytes(), out);
  } else if (value.is_list()) {
    const List& list = value.as_list();
    out += list.tuple ? '(' : '[';
    for (std::size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out += ", ";
      repr_into(list.items[i], out, origin);
    }
    if (list.tuple && list.items.size() == 1) out += ',';
    out += list.tuple ? ')' : ']';
  } else if (value.is_dict()) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : value.as_dict().entries) {
      if (!first) out += ", ";
      first = false;
      repr_into(key, out, origin);
      out += ": ";
      repr_into(item, out, origin);
    }
    out += '}';
  } else {
    out += fmt::format("<{}>", value.type_name());
  }
}

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Origin& origin) : style_(style), origin_(origin) {}
  std::string out;

  void write(const Value& value, std::size_t level) {
    check_size(out);
    origin_ = either(origin_, value.scalar_origin());
    if (value.is_text()) {
      text(value.as_text());
    } else if (value.is_list()) {
      list(value.as_list(), level);
    } else if (value.is_dict()) {
      dict(value.as_dict(), level);
    } else {
      out += scalar(value);
    }
  }

 private:
  std::string scalar(const Value& value) const {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.as_bool() ? "true" : "false";
    if (value.is_int()) return std::to_string(value.as_int());
    if (!value.is_real())
      fail(fmt::format("Object of type {} is not JSON serializable", value.type_name()));
    const double d = value.as_real();
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return float_repr(d);
  }

  void escape(char32_t c) {
    if (c >= 0x10000) {
      const auto rest = static_cast<unsigned>(c - 0x10000);
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    } else {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    }
  }

  void text(const MarkedText& marked) {
    origin_ = either(origin_, marked.origin());
    out += '"';
    for (std::string_view rest = marked.bytes(); !rest.empty();) {
      const Utf8Step step = utf8_step(rest);
      static constexpr std::string_view kSpecial = "\"\\\n\r\t\f\b";
      static constexpr std::string_view kLetter = "\"\\nrtfb";
      const std::size_t special =
          step.bytes == 1 ? kSpecial.find(rest.front()) : std::string_view::npos;
      if (special != std::string_view::npos) {
        out += '\\';
        out += kLetter[special];
      } else if (step.code_point < 0x20 || (style_.ensure_ascii && step.code_point >= 0x7F + 1)) {
        escape(step.code_point);
      } else {
        out += rest.substr(0, step.bytes);
      }
      rest.remove_prefix(step.bytes);
    }
    out += '"';
  }

  void line(std::size_t level) {
    if (!style_.indented) return;
    out += '\n';
    for (std::size_t i = 0; i < level; ++i) out += style_.indent;
    check_size(out);
  }

  void list(const List& value, std::size_t level) {
    out += '[';
    for (std::size_t i = 0; i < value.items.size(); ++i) {
      if (i > 0) out += style_.item_separator;
      line(level + 1);
      write(value.items[i], level + 1);
    }
    if (!value.items.empty()) line(level);
    out += ']';
  }

  void dict(const Dict& value, std::size_t level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : value.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      const auto key = [](const auto* e) {
        return e->first.is_text() ? e->first.bytes() : std::string();
      };
      std::stable_sort(entries.begin(), entries.end(),
                       [&](const auto* a, const auto* b) { return key(a) < key(b); });
    }
    out += '{';
    bool first = true;
    for (const auto* entry : entries) {
      if (!first) out += style_.item_separator;
      first = false;
      line(level + 1);
      if (entry->first.is_text()) {
        text(entry->first.as_text());
      } else {
        origin_ = either(origin_, entry->first.scalar_origin());
        if (entry->first.is_list()) fail("keys must be str, int, float, bool or None, not tuple");
        out += fmt::format("\"{}\"", scalar(entry->first));
      }
      out += style_.key_separator;
      write(entry->second, level + 1);
    }
    if (!entries.empty()) line(level);
    out += '}';
  }

  const JsonStyle& style_;
  Origin& origin_;
};

}  // namespace

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  std::array<char, 40> buffer{};
  const auto result =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), d, std::chars_format::scientific);
  std::string_view text(buffer.data(), static_cast<std::size_t>(result.ptr - buffer.data()));
  std::string out;
  if (text.front() == '-') {
    out += '-';
    text.remove_prefix(1);
  }
  const std::size_t e = text.find('e');
  int exponent = 0;
  std::from_chars(text.data() + e + (text[e + 1] == '+' ? 2 : 1), text.data() + text.size(),
                  exponent);
  std::string digits(1, text.front());
  if (e > 2) digits += text.substr(2, e - 2);
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (digits.size() > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return out + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<std::size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string repr(const Value& value, Origin& origin) {
  std::string out;
  repr_into(value, out, origin);
  return out;
}

std::string to_json(const Value& value, const JsonStyle& style, Origin& origin) {
  JsonWriter writer(style, origin);
  writer.write(value, 0);
  return std::move(writer.out);
}

namespace {

struct Date {
  std::int64_t year = 1970;
  int month = 1;  // 1–12
  int day = 1;
  int weekday = 4;  // 0 is Sunday
  int year_day = 0;
  int hour = 0;
  int minute = 0;
  int second = 0;
};

// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
Date date_of(std::int64_t unix_seconds) {
  // A year of four digits, as strftime of the platforms agrees on.
  constexpr std::int64_t kMax = 253402300799;
  unix_seconds = std::clamp<std::int64_t>(unix_seconds, -62135596800, kMax);
  std::int64_t days = unix_seconds / 86400;
  std::int64_t rest = unix_seconds % 86400;
  if (rest < 0) {
    rest += 86400;
    --days;
  }
  Date date;
  date.hour = static_cast<int>(rest / 3600);
  date.minute = static_cast<int>(rest / 60 % 60);
  date.second = static_cast<int>(rest % 60);
  date.weekday = static_cast<int>(((days + 4) % 7 + 7) % 7);
  const std::int64_t z = days + 719468;
  const std::int64_t era = (z >= 0 ? z : z - 146096) / 146097;
  const std::int64_t doe = z - era * 146097;
  const std::int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
  const std::int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
  const std::int64_t mp = (5 * doy + 2) / 153;
  date.day = static_cast<int>(doy - (153 * mp + 2) / 5 + 1);
  date.month = static_cast<int>(mp < 10 ? mp + 3 : mp - 9);
  date.year = yoe + era * 400 + (date.month <= 2 ? 1 : 0);
  static constexpr int kBefore[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
  const bool leap = (date.year % 4 == 0 && date.year % 100 != 0) || date.year % 400 == 0;
  date.year_day = kBefore[date.month - 1] + date.day + (leap && date.month > 2 ? 1 : 0);
  return date;
}

std::string directive(char c, bool bare, const Date& d) {
  static constexpr const char* kDays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                          "Thursday", "Friday", "Saturday"};
  static constexpr const char* kMonths[] = {"January",   "February", "March",    "April",
                                            "May",       "June",     "July",     "August",
                                            "September", "October",  "November", "December"};
  const auto two = [bare](int n) { return bare ? std::to_string(n) : fmt::format("{:02}", n); };
  const int hour12 = d.hour % 12 == 0 ? 12 : d.hour % 12;
  const std::string day = kDays[d.weekday];
  const std::string month = kMonths[d.month - 1];
  switch (c) {
    case 'Y':
      return fmt::format("{:04}", d.year);
    case 'y':
      return two(static_cast<int>(d.year % 100));
    case 'm':
      return two(d.month);
    case 'd':
      return two(d.day);
    case 'e':
      return fmt::format("{:2}", d.day);
    case 'H':
      return two(d.hour);
    case 'I':
      return two(hour12);
    case 'M':
      return two(d.minute);
    case 'S':
      return two(d.second);
    case 'f':
      return "000000";
    case 'j':
      return bare ? std::to_string(d.year_day) : fmt::format("{:03}", d.year_day);
    case 'w':
      return std::to_string(d.weekday);
    case 'u':
      return std::to_string(d.weekday == 0 ? 7 : d.weekday);
    case 'A':
      return day;
    case 'a':
      return day.substr(0, 3);
    case 'B':
      return month;
    case 'b':
    case 'h':
      return month.substr(0, 3);
    case 'p':
      return d.hour < 12 ? "AM" : "PM";
    case 'F':
      return fmt::format("{:04}-{:02}-{:02}", d.year, d.month, d.day);
    case 'T':
    case 'X':
      return fmt::format("{:02}:{:02}:{:02}", d.hour, d.minute, d.second);
    case 'R':
      return fmt::format("{:02}:{:02}", d.hour, d.minute);
    case 'D':
    case 'x':
      return fmt::format("{:02}/{:02}/{:02}", d.month, d.day, d.year % 100);
    case 'c':
      return fmt::format("{} {} {:2} {:02}:{:02}:{:02} {:04}", day.substr(0, 3), month.substr(0, 3),
                         d.day, d.hour, d.minute, d.second, d.year);
    case 'z':
    case 'Z':
      return "";  // a naive datetime prints nothing
    case 'n':
      return "\n";
    case 't':
      return "\t";
    case '%':
      return "%";
    default:
      fail(fmt::format("strftime: directive '%{}' is not supported", c));
  }
}

}  // namespace

std::string format_time(std::string_view format, std::int64_t unix_seconds) {
  const Date date = date_of(unix_seconds);
  std::string out;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 >= format.size()) {
      out += format[i];
      continue;
    }
    ++i;
    const bool bare = format[i] == '-' && i + 1 < format.size();
    if (bare) ++i;
    out += directive(format[i], bare, date);
    check_size(out);
  }
  return out;
}

namespace {

std::string percent_number(char type, int precision, const Value& value) {
  if (!value.is_number())
    fail(fmt::format("%{} format: a number is required, not {}", type, value.type_name()));
  switch (type) {
    case 'd':
    case 'i':
      return value.is_real() ? fmt::format("{:.0f}", std::trunc(value.as_real()))
                             : std::to_string(value.as_int());
    case 'x':
      if (value.is_real()) fail("%x format: an integer is required, not float");
      return fmt::format("{:x}", value.as_int());
    case 'e':
      return fmt::format("{:.{}e}", value.as_real(), precision < 0 ? 6 : precision);
    case 'g':
      return fmt::format("{:.{}g}", value.as_real(), precision < 0 ? 6 : precision);
    default:
      return fmt::format("{:.{}f}", value.as_real(), precision < 0 ? 6 : precision);
  }
}

}  // namespace

std::string format_percent(std::string_view format, const Value& values, Origin& origin) {
  const bool many = values.is_list() && values.as_list().tuple;
  std::size_t used = 0;
  const auto next = [&]() -> const Value& {
    const std::size_t i = used++;
    if (many ? i >= values.as_list().items.size() : i > 0)
      fail("not enough arguments for format string");
    return many ? values.as_list().items[i] : values;
  };
  std::string out;
  for (std::size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    bool left = false;
    bool zero = false;
    std::size_t width = 0;
    int precision = -1;
    for (++i; i < format.size() && (format[i] == '-' || format[i] == '0'); ++i)
      (format[i] == '-' ? left : zero) = true;
    const auto digit = [&] { return i < format.size() && format[i] >= '0' && format[i] <= '9'; };
    for (; digit() && width < 10000; ++i)
      width = width * 10 + static_cast<std::size_t>(format[i] - '0');
    if (i < format.size() && format[i] == '.') {
      precision = 0;
      for (++i; digit() && precision < 100; ++i) precision = precision * 10 + (format[i] - '0');
    }
    if (i >= format.size()) fail("incomplete format");
    std::string part;
    const char type = format[i];
    if (type == '%') {
      part = "%";
    } else if (type == 's' || type == 'r') {
      const Value& value = next();
      if (type == 's' && value.is_text()) {
        origin = either(origin, value.as_text().origin());
        part = value.bytes();
      } else if (!value.is_undefined()) {
        part = repr(value, origin);
      }
      if (precision >= 0)
        part = part.substr(0, code_point_offset(part, static_cast<std::size_t>(precision)));
    } else if (std::string_view("dixfeg").find(type) != std::string_view::npos) {
      const Value& value = next();
      origin = either(origin, value.scalar_origin());
      part = percent_number(type, precision, value);
    } else {
      fail(fmt::format("unsupported format character '{}'", type));
    }
    const std::size_t length = count_code_points(part);
    const std::string padding(width > length ? width - length : 0,
                              zero && !left && type != 's' ? '0' : ' ');
    out += left ? part + padding : padding + part;
    check_size(out);
  }
  if (many && used < values.as_list().items.size())
    fail("not all arguments converted during string formatting");
  if (!many && used == 0) fail("not all arguments converted during string formatting");
  return out;
}

}  // namespace mesh::text::jinja
