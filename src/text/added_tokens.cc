#include "text/added_tokens.h"

#include <algorithm>

#include "text/utf8.h"

namespace mesh::text {
namespace {

char32_t code_point_before(std::string_view text, std::size_t at) {
  std::size_t start = at - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return utf8_step(text.substr(start)).code_point;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  const bool word_before = begin > 0 && is_word(code_point_before(text, begin));
  const bool word_behind = end < text.size() && is_word(utf8_step(text.substr(end)).code_point);
  return !word_before && !word_behind;
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string_view spelling) {
  if (spelling.empty()) return;
  tokens_.push_back(std::make_unique<AddedToken>(token));
  std::uint32_t node = 0;
  for (const char c : spelling) {
    const std::uint64_t key =
        (static_cast<std::uint64_t>(node) << 8) | static_cast<unsigned char>(c);
    const auto [it, fresh] = edges_.emplace(key, nodes_);
    if (fresh) ++nodes_;
    node = it->second;
  }
  ends_[node] = tokens_.back().get();
  first_[static_cast<unsigned char>(spelling.front())] = true;
}

AddedTokenMatcher::Match AddedTokenMatcher::longest_at(std::string_view bytes) const {
  Match best;
  if (!first_[static_cast<unsigned char>(bytes.front())]) return best;
  std::uint32_t node = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto it =
        edges_.find((static_cast<std::uint64_t>(node) << 8) | static_cast<unsigned char>(bytes[i]));
    if (it == edges_.end()) break;
    node = it->second;
    if (const auto end = ends_.find(node); end != ends_.end()) best = {i + 1, end->second};
  }
  return best;
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::split(const MarkedText& text,
                                                              bool skip_special) const {
  std::vector<Part> parts;
  const std::string_view bytes = text.bytes();
  std::size_t done = 0;  // everything before is in parts
  std::size_t run_begin = 0;
  for (const MarkedText::Run& run : text.runs()) {
    std::size_t at = std::max(run_begin, done);
    run_begin = run.end;
    if (run.origin != Origin::kTemplate || empty()) continue;
    while (at < run.end) {
      const Match match = longest_at(bytes.substr(at, run.end - at));
      if (match.token == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at;
      std::size_t end = at + match.length;
      at = end;  // also when the match is refused: so does Hugging Face's find_iter
      if (skip_special && match.token->special) continue;
      if (match.token->single_word && !stands_alone(bytes, begin, end)) continue;
      while (match.token->lstrip && begin > done && is_space(code_point_before(bytes, begin))) {
        do --begin;
        while ((static_cast<unsigned char>(bytes[begin]) & 0xC0) == 0x80);
      }
      while (match.token->rstrip && end < bytes.size()) {
        const Utf8Step step = utf8_step(bytes.substr(end));
        if (!is_space(step.code_point)) break;
        end += step.bytes;
      }
      if (done < begin) parts.push_back({done, begin, -1});
      parts.push_back({begin, end, match.token->id});
      done = end;
      at = std::max(at, done);
    }
  }
  if (done < bytes.size()) parts.push_back({done, bytes.size(), -1});
  return parts;
}

}  // namespace mesh::text
