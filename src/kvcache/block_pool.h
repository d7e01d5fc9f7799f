#pragma once
// Free list of the KV blocks of one stage. Pure bookkeeping: which page is free, nothing of what it
// holds.

#include <cstdint>
#include <vector>

#include "base/ids.h"

namespace mesh::kvcache {

// Pages [1, pages); page 0 is reserved for padding rows and never handed out. Not thread-safe: it
// belongs to the control loop. Order is deterministic: a fresh pool hands out 1, 2, 3 …; after that
// the page freed last comes first (its memory is the warmest).
class BlockPool {
 public:
  explicit BlockPool(std::uint32_t pages);

  // Pages that can be owned at all: pages - 1, or 0 for an empty pool.
  std::uint32_t total() const { return total_; }
  std::uint32_t free_pages() const { return static_cast<std::uint32_t>(free_.size()); }
  std::uint32_t used() const { return total_ - free_pages(); }
  bool is_free(PageId page) const;

  // Takes `count` pages and appends them to `out`; takes nothing and returns false when fewer are
  // free.
  bool take(std::uint32_t count, std::vector<PageId>& out);
  // Gives one page back. A page that is free, reserved or out of range is our bug.
  void give_back(PageId page);

 private:
  std::uint32_t total_ = 0;
  std::vector<PageId> free_;           // taken from the back
  std::vector<std::uint8_t> is_free_;  // [pages]
};

}  // namespace mesh::kvcache
