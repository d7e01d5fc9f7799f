#include "api/json_text.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "text/utf8.h"

namespace mesh::api {
namespace {

using text::kReplacement;
using text::utf8_step;
using text::Utf8Step;

// Position behind a string that starts at `at` (valid JSON).
std::size_t skip_string(std::string_view text, std::size_t at) {
  for (++at; at < text.size(); ++at) {
    if (text[at] == '\\')
      ++at;
    else if (text[at] == '"')
      return at + 1;
  }
  return text.size();
}

// An ASCII character that stands for itself in a JSON string.
bool is_plain(char c) {
  return c >= 0x20 && c < 0x7F && c != '"' && c != '\\';
}

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

std::size_t skip_blanks(std::string_view text, std::size_t at) {
  while (at < text.size() && is_blank(text[at])) ++at;
  return at;
}

std::size_t skip_value(std::string_view text, std::size_t at) {
  std::size_t depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '"') {
      at = skip_string(text, at);
      continue;
    }
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') {
      if (depth == 0) return at;
      --depth;
    }
    if (c == ',' && depth == 0) return at;
    ++at;
  }
  return at;
}

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  out.push_back('"');
  while (!text.empty()) {
    std::size_t plain = 0;  // most of most texts, copied at once
    while (plain < text.size() && is_plain(text[plain])) ++plain;
    out += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    const Utf8Step step = utf8_step(text);
    const char c = text.front();
    if (step.kind != Utf8Step::Kind::kValid)
      out += kReplacement;
    else if (c == '"' || c == '\\')
      (out += '\\') += c;
    else if (c == '\n')
      out += "\\n";
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      out += text.substr(0, step.bytes);
    text.remove_prefix(step.bytes);
  }
  out.push_back('"');
}

std::string Utf8Gate::push(std::string_view piece) {
  if (held_.empty() && text::is_utf8(piece)) return std::string(piece);
  held_ += piece;
  std::string_view rest = held_;
  std::string out;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    out += step.kind == Utf8Step::Kind::kValid ? rest.substr(0, step.bytes) : kReplacement;
    rest.remove_prefix(step.bytes);
  }
  held_ = std::string(rest);
  return out;
}

std::string Utf8Gate::flush() {
  if (held_.empty()) return "";
  held_.clear();
  return std::string(kReplacement);
}

bool json_deeper_than(std::string_view text, std::size_t depth) {
  std::size_t open = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"') {
      at = skip_string(text, at) - 1;
    } else if (c == '{' || c == '[') {
      if (++open > depth) return true;
    } else if ((c == '}' || c == ']') && open > 0) {
      --open;
    }
  }
  return false;
}

std::map<std::string, std::string_view> json_members(std::string_view text) {
  std::map<std::string, std::string_view> out;
  std::size_t at = text.find('{');
  if (at == std::string_view::npos) return out;
  ++at;
  while (true) {
    at = skip_blanks(text, at);
    if (at >= text.size() || text[at] != '"') return out;
    const std::size_t key_end = skip_string(text, at);
    const auto key = nlohmann::json::parse(text.substr(at, key_end - at), nullptr, false);
    at = skip_blanks(text, key_end);
    at = skip_blanks(text, at + 1);  // the colon
    if (at >= text.size()) return out;
    const std::size_t end = skip_value(text, at);
    std::size_t last = end;
    while (last > at && is_blank(text[last - 1])) --last;
    if (key.is_string()) out[key.get<std::string>()] = text.substr(at, last - at);
    if (end >= text.size() || text[end] != ',') return out;
    at = end + 1;
  }
}

}  // namespace mesh::api
