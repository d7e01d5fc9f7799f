#pragma once
// The pages of one stage with their owners and names: which page holds which piece of which text,
// how many sequences use it, and which page goes first when fresh ones run out.

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "kvcache/block_pool.h"
#include "kvcache/prefix_keys.h"

namespace mesh::kvcache {

// A page is free, or used (some sequences reference it; a keyed one may be shared), or cached
// (keyed and referenced by none). Only the one owner of a page without a key may write to it: from
// enter() until the page is evicted its content stands. Every keyed page but a first one has a
// keyed parent, since nobody can find a page whose parent is gone. Not thread-safe: it belongs to
// the control loop. The same calls give the same pages in the same order.
class PrefixCache {
 public:
  // `pages` as the pool of the stage has them, reserved page 0 included. Without `reuse` no page
  // ever gets a key.
  PrefixCache(std::uint32_t pages, bool reuse);

  // The pages under the leading keys, as far as each is the child of the one before: a key out of
  // its place matches nothing.
  std::vector<PageId> find(std::span<const PageKey> keys) const;
  // One more owner of a keyed page.
  void pin(PageId page);
  // One owner less; the last one leaves a keyed page cached and frees any other.
  void unpin(PageId page);
  // Appends `count` pages without a key, each with one owner: free ones, then cached ones, least
  // recently used first and a page always before its parent. Takes nothing and returns false when
  // fewer than that are left.
  bool take(std::uint32_t count, std::vector<PageId>& out);
  // Names a page that one sequence owns. False, and nothing changes, when the key is taken, the
  // parent (kRootKey: none) is not held or reuse is off.
  bool enter(PageId page, const PageKey& key, const PageKey& parent);
  // Takes every key away; cached pages are free afterwards.
  void forget();

  bool reuse() const { return reuse_; }
  std::uint32_t owners(PageId page) const { return pages_[page.value].owners; }
  // kRootKey for a page without one.
  const PageKey& key(PageId page) const { return pages_[page.value].key; }
  std::uint32_t total() const { return pool_.total(); }
  std::uint32_t free_pages() const { return pool_.free_pages(); }
  std::uint32_t cached() const {
    return static_cast<std::uint32_t>(leaves_.size() + inner_.size());
  }
  std::uint32_t used() const { return pool_.used() - cached(); }

 private:
  // Children of a page are a list of its keyed children; 0 ends it, page 0 being reserved.
  struct Page {
    PageKey key = kRootKey;
    std::uint32_t owners = 0;
    PageId parent, child, next, previous;
    std::uint64_t left = 0;  // when its last owner left, by count of such events
    bool keyed() const { return key != kRootKey; }
  };
  using Queue = std::set<std::pair<std::uint64_t, PageId>>;  // least recently used first

  Page& at(PageId page) { return pages_[page.value]; }
  Queue& queue_of(const Page& page) { return page.child.value == 0 ? leaves_ : inner_; }
  void evict_one();
  void drop(PageId page);
  void unlink(PageId page);

  bool reuse_;
  BlockPool pool_;
  std::vector<Page> pages_;           // by number
  std::map<PageKey, PageId> by_key_;  // ordered, so that no choice of keys makes it slow
  Queue leaves_, inner_;              // cached pages without and with children
  std::uint64_t departures_ = 0;
};

}  // namespace mesh::kvcache
