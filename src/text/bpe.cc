#include "text/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <queue>

#include "base/random.h"
#include "text/utf8.h"

namespace mesh::text {
namespace {

// Up to this length scanning all pairs anew after each merge beats a heap.
constexpr std::size_t kShortPiece = 32;

std::uint64_t pair_key(TokenId left, TokenId right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
         static_cast<std::uint32_t>(right);
}

}  // namespace

Result<std::unique_ptr<Bpe>> Bpe::build(BpeSpec spec, bool byte_level,
                                        const std::unordered_set<TokenId>& special) {
  auto bpe = std::make_unique<Bpe>();
  bpe->spec_ = std::move(spec);
  bpe->byte_level_ = byte_level;
  BpeSpec& own = bpe->spec_;
  bpe->by_bytes_.reserve(own.vocab.size());
  for (const auto& [bytes, id] : own.vocab) bpe->by_bytes_.emplace(bytes, id);
  for (int b = 0; b < 256; ++b) {
    const std::string name =
        byte_level ? std::string(1, static_cast<char>(b)) : fmt::format("<0x{:02X}>", b);
    bpe->byte_ids_[b] = bpe->find(name);
  }
  if (own.unk_token) bpe->unk_ = bpe->find(*own.unk_token);
  bpe->merges_.resize(std::bit_ceil(own.merges.size() * 2 + 1));
  std::uint32_t rank = 0;
  for (const auto& [left, right] : own.merges) {
    Merge merge;
    const TokenId left_id = bpe->find(left);
    const TokenId right_id = bpe->find(right);
    merge.merged = bpe->find(left + right);
    merge.rank = rank++;
    if (left_id < 0 || right_id < 0 || merge.merged < 0) {
      return Error(Code::kCorrupt,
                   fmt::format("tokenizer.json: merge {} is not in the vocabulary", merge.rank));
    }
    merge.pair = pair_key(left_id, right_id);
    if (special.count(merge.merged) == 0) bpe->insert_merge(merge);
  }
  own.merges.clear();
  own.merges.shrink_to_fit();
  for (const TokenId id : special) {
    for (TokenId& byte_id : bpe->byte_ids_)
      if (byte_id == id) byte_id = -1;
  }
  for (auto it = bpe->by_bytes_.begin(); it != bpe->by_bytes_.end();)
    it = special.count(it->second) != 0 ? bpe->by_bytes_.erase(it) : std::next(it);
  return bpe;
}

TokenId Bpe::find(std::string_view bytes) const {
  const auto it = by_bytes_.find(bytes);
  return it == by_bytes_.end() ? -1 : it->second;
}

void Bpe::insert_merge(const Merge& merge) {
  const std::size_t mask = merges_.size() - 1;
  std::size_t at = splitmix64(merge.pair) & mask;
  while (merges_[at].pair != kNoPair && merges_[at].pair != merge.pair) at = (at + 1) & mask;
  merges_[at] = merge;  // a repeated pair takes its last rank, as in Hugging Face's map
}

const Bpe::Merge* Bpe::find_merge(TokenId left, TokenId right) const {
  const std::uint64_t pair = pair_key(left, right);
  const std::size_t mask = merges_.size() - 1;
  for (std::size_t at = splitmix64(pair) & mask; merges_[at].pair != kNoPair; at = (at + 1) & mask)
    if (merges_[at].pair == pair) return &merges_[at];
  return nullptr;
}

void Bpe::initial_symbols(std::string_view piece, std::vector<TokenId>& symbols) const {
  if (byte_level_) {
    for (const char c : piece) {
      const TokenId id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0 || unk_ >= 0) symbols.push_back(id >= 0 ? id : unk_);
    }
    return;
  }
  bool unknown_before = false;
  while (!piece.empty()) {
    const std::string_view character = piece.substr(0, utf8_step(piece).bytes);
    piece.remove_prefix(character.size());
    const TokenId id = find(character);
    bool bytes_known = spec_.byte_fallback;
    for (const char c : character)
      bytes_known = bytes_known && byte_ids_[static_cast<unsigned char>(c)] >= 0;
    if (id >= 0) {
      symbols.push_back(id);
    } else if (bytes_known) {
      for (const char c : character) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    } else if (unk_ >= 0 && !(spec_.fuse_unk && unknown_before)) {
      symbols.push_back(unk_);
    }
    unknown_before = id < 0 && !bytes_known;
  }
}

void Bpe::merge_short(std::vector<TokenId>& symbols) const {
  while (symbols.size() > 1) {
    const Merge* best = nullptr;
    std::size_t best_at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const Merge* merge = find_merge(symbols[i], symbols[i + 1]);
      if (merge != nullptr && (best == nullptr || merge->rank < best->rank)) {
        best = merge;
        best_at = i;
      }
    }
    if (best == nullptr) return;
    symbols[best_at] = best->merged;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

void Bpe::merge_long(std::vector<TokenId>& symbols) const {
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t at;
    TokenId merged;
    bool operator<(const Candidate& o) const {  // std::priority_queue gives the largest first
      return rank != o.rank ? rank > o.rank : at > o.at;
    }
  };
  constexpr std::uint32_t kNone = ~std::uint32_t{0};
  const auto count = static_cast<std::uint32_t>(symbols.size());
  std::vector<std::uint32_t> next(count);
  std::vector<std::uint32_t> previous(count);
  std::vector<Candidate> initial;
  for (std::uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : kNone;
    previous[i] = i > 0 ? i - 1 : kNone;
    if (i + 1 < count)
      if (const Merge* merge = find_merge(symbols[i], symbols[i + 1]))
        initial.push_back({merge->rank, i, merge->merged});
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(initial));
  const auto offer = [&](std::uint32_t at) {
    if (at == kNone || next[at] == kNone) return;
    if (const Merge* merge = find_merge(symbols[at], symbols[next[at]]))
      queue.push({merge->rank, at, merge->merged});
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const std::uint32_t at = top.at;
    if (symbols[at] < 0 || next[at] == kNone) continue;
    // The pair may have changed since; a merge found now that gives the same rank is the same pair.
    const Merge* merge = find_merge(symbols[at], symbols[next[at]]);
    if (merge == nullptr || merge->rank != top.rank) continue;
    const std::uint32_t gone = next[at];
    symbols[at] = merge->merged;
    symbols[gone] = -1;
    next[at] = next[gone];
    if (next[gone] != kNone) previous[next[gone]] = at;
    offer(previous[at]);
    offer(at);
  }
  symbols.erase(std::remove(symbols.begin(), symbols.end(), -1), symbols.end());
}

void Bpe::encode(std::string_view piece, std::vector<TokenId>& ids) const {
  if (piece.empty()) return;
  if (spec_.ignore_merges) {
    if (const TokenId id = find(piece); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  std::vector<TokenId> symbols;
  symbols.reserve(piece.size());
  initial_symbols(piece, symbols);
  if (symbols.size() <= kShortPiece) {
    merge_short(symbols);
  } else {
    merge_long(symbols);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

}  // namespace mesh::text
