#pragma once
// Finds added tokens (control tokens and the like) in text that the template wrote.

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "text/marked_text.h"
#include "text/tokenizer_spec.h"

namespace mesh::text {

// A set of added tokens as a trie over bytes. Immutable once filled.
class AddedTokenMatcher {
 public:
  struct Part {
    std::size_t begin = 0;
    std::size_t end = 0;
    TokenId id = -1;  // -1: ordinary text
  };

  // `spelling` is what to look for: the content, normalised if the token asks for that.
  void add(const AddedToken& token, std::string_view spelling);
  bool empty() const { return tokens_.empty(); }

  // Tiles `text` with ordinary text and tokens: at every place the longest token, from left to
  // right, but only tokens whose bytes are all the template's. With skip_special a special token
  // stays text. The caller's bytes cannot hide a token of the template's either, because each run
  // of the template's bytes is searched on its own.
  std::vector<Part> split(const MarkedText& text, bool skip_special) const;

 private:
  struct Match {
    std::size_t length = 0;
    const AddedToken* token = nullptr;
  };
  Match longest_at(std::string_view bytes) const;

  std::vector<std::unique_ptr<AddedToken>> tokens_;
  std::unordered_map<std::uint64_t, std::uint32_t> edges_;     // node << 8 | byte → node
  std::unordered_map<std::uint32_t, const AddedToken*> ends_;  // node → token
  bool first_[256] = {};
  std::uint32_t nodes_ = 1;
};

}  // namespace mesh::text
