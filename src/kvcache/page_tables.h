#pragma once
// Which sequence owns which pages of one stage. Pages are reserved for the length a sequence may
// reach before rows of it run, so that a stage never runs out in mid-step. Whole pages are named by
// the text up to their end (prefix_keys.h), and a sequence that starts with the same text shares
// them instead of computing them again.

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kvcache/prefix_cache.h"
#include "kvcache/prefix_keys.h"

namespace mesh::kvcache {

// Pages that hold `positions` positions.
constexpr std::uint32_t pages_for(std::uint32_t positions) {
  return positions / kPagePositions + (positions % kPagePositions != 0 ? 1 : 0);
}

// Page p of a sequence holds its positions [64p, 64p + 64). A sequence writes from the position on
// that begin() named (without begin(): where open() said) and only behind what it has computed;
// those pages are its own and have no key, so the content of a shared page never changes. Not
// thread-safe: it belongs to the control loop. The same calls give the same pages: fresh ones in
// the order of BlockPool, and when they run out cached ones, least recently used first.
class PageTables {
 public:
  // `pages` as the pool of the stage has them, reserved page 0 included. Without `reuse` nothing is
  // shared and nothing stays cached.
  explicit PageTables(std::uint32_t pages, bool reuse = true) : cache_(pages, reuse) {}

  // Makes a new sequence own pages for positions [0, positions_max). The pages under the leading
  // keys, as far as they are held and chained, are shared; at least one position stays to be
  // computed. Returns the positions that need not be computed: 64 per shared page. All or nothing.
  // Keys may come from anybody: bytes that name no page match nothing. Errors: invalid_argument (no
  // positions, sequence is known), resource_exhausted (names the pages wanted and left, or the
  // limit on sequences).
  Result<std::uint32_t> open(SequenceId sequence, std::uint32_t positions_max,
                             std::span<const PageKey> keys);
  // Grows a sequence to positions [0, positions_max), never shrinks it; a refusal changes nothing.
  // Errors: invalid_argument (no positions), not_found, resource_exhausted.
  Result<void> extend(SequenceId sequence, std::uint32_t positions_max);
  // open() without keys, or extend().
  Result<void> reserve(SequenceId sequence, std::uint32_t positions_max);
  // The rows of the sequence are computed from `first` on: a multiple of 64, at most what open()
  // returned. Shared pages from there on are swapped for fresh ones; call it before the sequence's
  // first step takes pages(). Errors: not_found, invalid_argument (another `first`, or rows have
  // been computed), resource_exhausted; nothing changes then.
  Result<void> begin(SequenceId sequence, std::uint32_t first);
  // The rows of these tokens have been computed at the next positions of the sequence. Each page
  // that became whole gets its key, unless another page has it already or its parent is not held:
  // then it stays private. pages() stays as it is. A sequence that is not known is ignored.
  void computed(SequenceId sequence, std::span<const TokenId> tokens);

  // Pages in order of position; empty for an unknown sequence. Valid until the next call that
  // changes this sequence.
  std::span<const PageId> pages(SequenceId sequence) const;
  // Lets all pages of the sequence go, the highest position first, so that the next owner gets them
  // in the same order: keyed ones stay cached when nobody else uses them. False: the sequence owns
  // none.
  bool release(SequenceId sequence);
  // Takes all keys away, as when the layers change: cached pages are free, pages in use stay with
  // their sequences and are shared with nobody new.
  void forget();

  // The pages behind the tables, to look at.
  const PrefixCache& cache() const { return cache_; }
  bool contains(SequenceId sequence) const { return tables_.contains(sequence); }
  std::size_t sequences() const { return tables_.size(); }
  // Referenced by a sequence, a shared page counted once.
  std::uint32_t used() const { return cache_.used(); }
  // Held under a key only, to be taken when fresh ones run out.
  std::uint32_t cached() const { return cache_.cached(); }
  std::uint32_t free_pages() const { return cache_.free_pages(); }
  // used() + cached() + free_pages()
  std::uint32_t total() const { return cache_.total(); }

 private:
  struct Table {
    std::vector<PageId> pages;
    std::uint32_t shared = 0;   // leading pages that others may own too, until begin()
    std::uint32_t next = 0;     // position of the next row to be computed
    bool moved = false;         // rows have been computed
    bool enters = true;         // its pages may still get keys
    PageKey key = kRootKey;     // of the last whole page before `next`
    std::vector<TokenId> tail;  // tokens of the page that is being filled
  };

  Error exhausted(std::uint32_t wanted, std::uint32_t positions, std::uint32_t left) const;

  PrefixCache cache_;
  std::map<SequenceId, Table> tables_;
};

}  // namespace mesh::kvcache
