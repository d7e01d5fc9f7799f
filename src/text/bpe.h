#pragma once
// Byte-pair encoding of one piece of text.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "text/tokenizer_spec.h"

namespace mesh::text {

// Immutable after build; encode may run on many threads at once.
class Bpe {
 public:
  // Never yields an id of `special`, whatever the text: control tokens come from AddedTokenMatcher
  // alone. Errors: corrupt when a merge names a token that is not in the vocabulary.
  static Result<std::unique_ptr<Bpe>> build(BpeSpec spec, bool byte_level,
                                            const std::unordered_set<TokenId>& special);

  // Appends the ids of one piece: repeatedly merges the adjacent pair of lowest rank, leftmost
  // first. O(n log n). What no token covers is the unknown token, or nothing if there is none.
  // Source: Sennrich et al. 2016.
  void encode(std::string_view piece, std::vector<TokenId>& ids) const;

  // Id of a token by its bytes; -1 if there is none.
  TokenId find(std::string_view bytes) const;

 private:
  struct Merge {
    std::uint64_t pair = kNoPair;  // left id << 32 | right id
    std::uint32_t rank = 0;
    TokenId merged = -1;
  };
  static constexpr std::uint64_t kNoPair = ~std::uint64_t{0};

  const Merge* find_merge(TokenId left, TokenId right) const;
  void insert_merge(const Merge& merge);
  void initial_symbols(std::string_view piece, std::vector<TokenId>& symbols) const;
  void merge_short(std::vector<TokenId>& symbols) const;
  void merge_long(std::vector<TokenId>& symbols) const;

  BpeSpec spec_;  // merges are cleared after build
  bool byte_level_ = false;
  std::unordered_map<std::string_view, TokenId> by_bytes_;  // views into spec_.vocab
  std::vector<Merge> merges_;                               // open addressing, a power of two
  TokenId byte_ids_[256];
  TokenId unk_ = -1;
};

}  // namespace mesh::text
