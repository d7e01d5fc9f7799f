#include "text/jinja/text_operations.h"

#include <fmt/format.h>

#include <algorithm>

#include "text/utf8.h"

namespace mesh::text::jinja {
namespace {

std::size_t previous_character(std::string_view bytes, std::size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(bytes[at]) & 0xC0) == 0x80);
  return at;
}

void charge_scan(Interpreter& in, const MarkedText& text) {
  in.charge(1 + text.size() / 64);
}

}  // namespace

MarkedText strip(Interpreter& in, const MarkedText& text, const Value& characters, Side side) {
  charge_scan(in, text);
  std::u32string set;
  const bool given = characters.is_text();
  if (!given && !characters.is_undefined() && !characters.is_none())
    in.fail("strip arg must be None or str");
  for (std::string_view rest = given ? std::string_view(characters.bytes()) : std::string_view();
       !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    set += step.code_point;
    rest.remove_prefix(step.bytes);
  }
  const auto drops = [&](char32_t c) {
    return given ? set.find(c) != std::u32string::npos : is_space(c);
  };
  const std::string_view bytes = text.bytes();
  std::size_t begin = 0;
  std::size_t end = bytes.size();
  const std::size_t unit = 1 + set.size() / 16;
  while (side != Side::kRight && begin < end) {
    const Utf8Step step = utf8_step(bytes.substr(begin));
    if (!drops(step.code_point)) break;
    in.charge(unit / 4);
    begin += step.bytes;
  }
  while (side != Side::kLeft && begin < end) {
    const std::size_t last = previous_character(bytes, end);
    if (!drops(utf8_step(bytes.substr(last)).code_point)) break;
    in.charge(unit / 4);
    end = last;
  }
  if (begin == 0 && end == bytes.size()) return text;
  return text.slice(begin, end);
}

MarkedText replace(Interpreter& in, const MarkedText& text, const MarkedText& from,
                   const MarkedText& to, std::int64_t limit) {
  charge_scan(in, text);
  MarkedText out;
  const std::string_view bytes = text.bytes();
  std::size_t done = 0;
  std::size_t at = 0;
  while (limit != 0) {
    std::size_t found = 0;
    if (from.empty()) {  // between all characters
      if (at > bytes.size()) break;
      found = at;
      at = found == bytes.size() ? found + 1 : found + utf8_step(bytes.substr(found)).bytes;
    } else {
      found = bytes.find(from.bytes(), at);
      if (found == std::string_view::npos) break;
      at = found + from.size();
    }
    in.charge_bytes(to.size());
    in.charge(1 + to.runs().size() / 8);
    out.append(text, done, found);
    out.append(to);
    done = found + from.size();
    if (limit > 0) --limit;
  }
  out.append(text, done, bytes.size());
  return out;
}

namespace {

std::vector<ByteRange> words_of(Interpreter& in, std::string_view bytes) {
  std::vector<ByteRange> words;
  bool inside = false;
  for (std::size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(bytes.substr(at));
    const bool space = is_space(step.code_point);
    if (!space && !inside) {
      in.charge_items(Interpreter::kTextItems);
      words.push_back({at, at});
    }
    if (!space) words.back().end = at + step.bytes;
    inside = !space;
    at += step.bytes;
  }
  return words;
}

}  // namespace

std::vector<Value> split(Interpreter& in, const MarkedText& text, const Value& separator,
                         std::int64_t limit, bool from_right) {
  charge_scan(in, text);
  const std::string_view bytes = text.bytes();
  std::vector<ByteRange> parts;
  if (separator.is_text()) {
    const std::string& cut = separator.bytes();
    if (cut.empty()) in.fail("empty separator");
    std::vector<std::size_t> cuts;
    if (from_right) {
      for (std::size_t at = bytes.rfind(cut);
           at != std::string_view::npos &&
           (limit < 0 || cuts.size() < static_cast<std::size_t>(limit));
           at = at < cut.size() ? std::string_view::npos : bytes.rfind(cut, at - cut.size())) {
        in.charge_items(Interpreter::kTextItems);
        cuts.push_back(at);
      }
      std::reverse(cuts.begin(), cuts.end());
    } else {
      for (std::size_t at = bytes.find(cut);
           at != std::string_view::npos &&
           (limit < 0 || cuts.size() < static_cast<std::size_t>(limit));
           at = bytes.find(cut, at + cut.size())) {
        in.charge_items(Interpreter::kTextItems);
        cuts.push_back(at);
      }
    }
    std::size_t begin = 0;
    for (const std::size_t at : cuts) {
      parts.push_back({begin, at});
      begin = at + cut.size();
    }
    parts.push_back({begin, bytes.size()});
  } else {
    if (!separator.is_undefined() && !separator.is_none()) in.fail("must be str or None");
    parts = words_of(in, bytes);
    const auto keep = static_cast<std::size_t>(std::max<std::int64_t>(limit, 0));
    // What is left when the splits are used up keeps the white space at its far end, as in Python.
    if (limit >= 0 && parts.size() > keep) {
      if (from_right) {
        const std::size_t drop = parts.size() - keep - 1;
        parts[drop].begin = 0;
        parts.erase(parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(drop));
      } else {
        parts.resize(keep + 1);
        parts.back().end = bytes.size();
      }
    }
  }
  in.charge(parts.size());
  in.charge_bytes(text.size());
  std::vector<Value> out;
  out.reserve(parts.size());
  for (const ByteRange& part : parts) out.push_back(Value::text(text.slice(part.begin, part.end)));
  return out;
}

std::vector<Value> split_lines(Interpreter& in, const MarkedText& text, bool keep_ends) {
  charge_scan(in, text);
  in.charge_bytes(text.size());
  std::vector<Value> out;
  const std::string_view bytes = text.bytes();
  std::size_t begin = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(bytes.substr(at));
    const char32_t c = step.code_point;
    const std::size_t end = at;
    at += step.bytes;
    const bool line_end = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                          c == 0x2028 || c == 0x2029;
    if (!line_end) continue;
    in.charge_items(Interpreter::kTextItems);
    if (c == '\r' && at < bytes.size() && bytes[at] == '\n') ++at;
    out.push_back(Value::text(text.slice(begin, keep_ends ? at : end)));
    begin = at;
  }
  if (begin < bytes.size()) out.push_back(Value::text(text.slice(begin, bytes.size())));
  in.charge(out.size());
  return out;
}

MarkedText change_case(Interpreter& in, const MarkedText& text, Case mode) {
  in.charge(1 + text.size() / 16);
  in.charge_bytes(text.size());
  MarkedText out;
  std::size_t at = 0;
  bool first = true;
  bool in_word = false;
  for (const MarkedText::Run& run : text.runs()) {
    std::string part;
    while (at < run.end) {
      const Utf8Step step = utf8_step(std::string_view(text.bytes()).substr(at));
      const char32_t c = step.code_point;
      at += step.bytes;
      const bool cased = is_upper(c) || is_lower(c) || is_title(c);
      switch (mode) {
        case Case::kUpper:
          part += to_upper(c);
          break;
        case Case::kLower:
          part += to_lower(c);
          break;
        case Case::kCapitalize:
          part += first ? to_title(c) : to_lower(c);
          break;
        case Case::kSwap:
          part += is_upper(c) ? to_lower(c) : to_upper(c);
          break;
        case Case::kTitle:
          part += in_word ? to_lower(c) : to_title(c);
          break;
        case Case::kTitleFilter:
          part += in_word ? to_lower(c) : to_upper(c);
          break;
      }
      first = false;
      // str.title begins a word behind every character without case; the filter only behind these.
      const bool opens = c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) !=
                                         std::string_view::npos;
      in_word = mode == Case::kTitleFilter ? !is_space(c) && !opens : cased;
    }
    out.append(part, run.origin);
  }
  return out;
}

MarkedText pad(Interpreter& in, const MarkedText& text, std::int64_t width, const MarkedText& fill,
               Side text_side) {
  charge_scan(in, text);
  const auto length = static_cast<std::int64_t>(count_code_points(text.bytes()));
  if (count_code_points(fill.bytes()) != 1)
    in.fail("the fill character must be exactly one character long");
  if (width <= length) return text;
  const auto missing = static_cast<std::size_t>(width - length);
  in.charge_bytes(missing);
  // str.center puts the odd character left when the width is odd.
  std::size_t left = text_side == Side::kLeft ? 0 : missing;
  if (text_side == Side::kBoth)
    left = missing / 2 + (missing & static_cast<std::size_t>(width) & 1);
  MarkedText out;
  for (std::size_t i = 0; i < left; ++i) out.append(fill);
  out.append(text);
  for (std::size_t i = left; i < missing; ++i) out.append(fill);
  return out;
}

}  // namespace mesh::text::jinja
