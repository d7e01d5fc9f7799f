#include "text/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "text/utf8.h"

namespace mesh::text::jinja {
namespace {

using Kind = Token::Kind;

bool ascii_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}
bool name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}
int hex_digit(char c) {
  if (digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)), view_(source_) {}

  std::vector<Token> run() {
    while (at_ < view_.size()) next_tag();
    push(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool looking_at(std::string_view what, std::size_t at) const {
    return view_.substr(std::min(at, view_.size()), what.size()) == what;
  }
  [[noreturn]] void fail(std::string message) const {
    throw SyntaxError{std::move(message), line_};
  }
  void push(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  void advance(std::size_t to) {
    line_ += static_cast<int>(std::count(view_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         view_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  std::size_t skip_space(std::size_t at) const {
    while (at < view_.size() && ascii_space(view_[at])) ++at;
    return at;
  }

  std::size_t find_tag(std::size_t from) const {
    for (std::size_t i = view_.find('{', from); i != std::string_view::npos;
         i = view_.find('{', i + 1)) {
      if (i + 1 < view_.size() &&
          (view_[i + 1] == '{' || view_[i + 1] == '%' || view_[i + 1] == '#'))
        return i;
    }
    return std::string_view::npos;
  }

  // Literal text in front of a tag that begins with `sign`, cut as white space control says.
  std::string_view cut(std::string_view text, char sign, bool variable) const {
    if (sign == '-') {
      while (!text.empty() && ascii_space(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && !variable) {
      const std::size_t line = text.rfind('\n') + 1;  // npos + 1 is 0
      const bool blank =
          std::all_of(text.begin() + static_cast<std::ptrdiff_t>(line), text.end(), ascii_space);
      if ((line > 0 || line_starting_) && blank) text = text.substr(0, line);
    }
    return text;
  }

  // Steps behind the end of a tag, which `sign` precedes, and what white space control takes with
  // it.
  void leave_tag(std::size_t end, char sign, bool variable) {
    if (sign == '-') {
      end = skip_space(end);
    } else if (sign != '+' && !variable && end < view_.size() && view_[end] == '\n') {
      ++end;
    }
    line_starting_ = end > 0 && view_[end - 1] == '\n';
    advance(end);
  }

  void next_tag() {
    const std::size_t tag = find_tag(at_);
    if (tag == std::string_view::npos) {
      push(Kind::kData, std::string(view_.substr(at_)));
      advance(view_.size());
      return;
    }
    const char type = view_[tag + 1];
    char sign = tag + 2 < view_.size() ? view_[tag + 2] : ' ';
    if (sign != '-' && sign != '+') sign = ' ';
    const std::string_view text = cut(view_.substr(at_, tag - at_), sign, type == '{');
    if (!text.empty()) push(Kind::kData, std::string(text));
    advance(tag);
    const std::size_t inner = tag + (sign == ' ' ? 2 : 3);
    if (type == '#') {
      comment(inner);
    } else if (type == '{') {
      push(Kind::kVariableBegin, "{{");
      advance(inner);
      expression(true);
    } else if (!raw(inner)) {
      push(Kind::kBlockBegin, "{%");
      advance(inner);
      expression(false);
    }
  }

  void comment(std::size_t inner) {
    const std::size_t end = view_.find("#}", inner);
    if (end == std::string_view::npos) fail("a comment is not closed");
    const char sign = end > inner ? view_[end - 1] : ' ';
    leave_tag(end + 2, sign, false);
  }

  // `{% raw %}…{% endraw %}`; false if the block at `inner` is another one.
  bool raw(std::size_t inner) {
    std::size_t at = skip_space(inner);
    if (!looking_at("raw", at)) return false;
    at = skip_space(at + 3);
    const bool dash = looking_at("-%}", at);
    if (!dash && !looking_at("%}", at)) return false;
    at += dash ? 3 : 2;
    if (dash) at = skip_space(at);
    line_starting_ = view_[at - 1] == '\n';
    for (std::size_t tag = view_.find("{%", at); tag != std::string_view::npos;
         tag = view_.find("{%", tag + 1)) {
      std::size_t end = tag + 2;
      const char sign = end < view_.size() ? view_[end] : ' ';
      if (sign == '-' || sign == '+') ++end;
      end = skip_space(end);
      if (!looking_at("endraw", end)) continue;
      end = skip_space(end + 6);
      const char last =
          end < view_.size() && (view_[end] == '-' || view_[end] == '+') ? view_[end] : ' ';
      if (last != ' ') ++end;
      if (!looking_at("%}", end)) continue;
      const std::string_view text = cut(view_.substr(at, tag - at), sign, false);
      if (!text.empty()) push(Kind::kData, std::string(text));
      leave_tag(end + 2, last, false);
      return true;
    }
    fail("raw is not closed by endraw");
  }

  void expression(bool variable) {
    const std::string_view end = variable ? "}}" : "%}";
    std::string brackets;
    while (true) {
      advance(skip_space(at_));
      if (at_ >= view_.size()) fail("unexpected end of the template in a tag");
      if (brackets.empty()) {
        const char c = view_[at_];
        const bool sign = (c == '-' || (c == '+' && !variable)) && looking_at(end, at_ + 1);
        if (sign || looking_at(end, at_)) {
          push(variable ? Kind::kVariableEnd : Kind::kBlockEnd, std::string(end));
          leave_tag(at_ + (sign ? 3 : 2), sign ? c : ' ', variable);
          return;
        }
      }
      token(brackets);
    }
  }

  void token(std::string& brackets) {
    const char c = view_[at_];
    if (name_start(c)) {
      std::size_t end = at_;
      while (end < view_.size() && (name_start(view_[end]) || digit(view_[end]))) ++end;
      push(Kind::kName, std::string(view_.substr(at_, end - at_)));
      advance(end);
    } else if (digit(c)) {
      number();
    } else if (c == '\'' || c == '"') {
      string(c);
    } else {
      punctuation(brackets);
    }
  }

  void punctuation(std::string& brackets) {
    static constexpr std::array<std::string_view, 6> kLong = {"//", "**", "==", "!=", ">=", "<="};
    for (const std::string_view op : kLong) {
      if (looking_at(op, at_)) {
        push(Kind::kOperator, std::string(op));
        advance(at_ + op.size());
        return;
      }
    }
    const char c = view_[at_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos)
      fail(fmt::format("unexpected character '{}'", view_.substr(at_, 1)));
    if (c == '(' || c == '[' || c == '{') brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (brackets.empty()) fail(fmt::format("unexpected '{}'", c));
      if (brackets.back() != c)
        fail(fmt::format("unexpected '{}', expected '{}'", c, brackets.back()));
      brackets.pop_back();
    }
    push(Kind::kOperator, std::string(1, c));
    advance(at_ + 1);
  }

  std::string digits(std::size_t& at) const {
    std::string out;
    while (at < view_.size() && (digit(view_[at]) || (view_[at] == '_' && at + 1 < view_.size() &&
                                                      digit(view_[at + 1])))) {
      if (view_[at] != '_') out += view_[at];
      ++at;
    }
    return out;
  }

  void number() {
    std::size_t at = at_;
    // a.0.1 is two indices, not the number 0.1
    const bool index = at_ > 0 && view_[at_ - 1] == '.';
    std::string text = digits(at);
    Kind kind = Kind::kInteger;
    if (!index && at + 1 < view_.size() && view_[at] == '.' && digit(view_[at + 1])) {
      ++at;
      text += '.' + digits(at);
      kind = Kind::kFloat;
    }
    if (!index && at + 1 < view_.size() && (view_[at] == 'e' || view_[at] == 'E')) {
      std::size_t power = at + 1;
      if (view_[power] == '+' || view_[power] == '-') ++power;
      if (power < view_.size() && digit(view_[power])) {
        text += view_.substr(at, power - at);
        at = power;
        text += digits(at);
        kind = Kind::kFloat;
      }
    }
    push(kind, std::move(text));
    advance(at);
  }

  void string(char quote) {
    std::string out;
    std::size_t at = at_ + 1;
    while (true) {
      if (at >= view_.size()) fail("a string is not closed");
      const char c = view_[at];
      if (c == quote) break;
      if (c == '\\') {
        escape(at, out);
      } else {
        out += c;
        ++at;
      }
    }
    push(Kind::kString, std::move(out));
    advance(at + 1);
  }

  // Python's escapes; `at` stands on the backslash.
  void escape(std::size_t& at, std::string& out) {
    if (at + 1 >= view_.size()) fail("a string is not closed");
    const char c = view_[at + 1];
    at += 2;
    static constexpr std::string_view kFrom = "\\'\"abfnrtv";
    static constexpr std::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
    if (const std::size_t i = kFrom.find(c); i != std::string_view::npos) {
      out += kTo[i];
    } else if (c == '\n') {
      return;
    } else if (c >= '0' && c <= '7') {
      char32_t code = static_cast<char32_t>(c - '0');
      for (int n = 0; n < 2 && at < view_.size() && view_[at] >= '0' && view_[at] <= '7'; ++n)
        code = code * 8 + static_cast<char32_t>(view_[at++] - '0');
      append_utf8(out, code);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const int count = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      char32_t code = 0;
      for (int n = 0; n < count; ++n, ++at) {
        const int value = at < view_.size() ? hex_digit(view_[at]) : -1;
        if (value < 0 || code > 0x10FFFF) fail("a string has a malformed escape");
        code = code * 16 + static_cast<char32_t>(value);
      }
      append_utf8(out, code);
    } else {
      out += '\\';
      out += c;
    }
  }

  std::string source_;
  std::string_view view_;
  std::size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(normalize_newlines(source)).run();
}

}  // namespace mesh::text::jinja
