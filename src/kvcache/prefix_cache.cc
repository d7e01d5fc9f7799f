#include "kvcache/prefix_cache.h"

#include <algorithm>

#include "base/check.h"

namespace mesh::kvcache {

PrefixCache::PrefixCache(std::uint32_t pages, bool reuse)
    : reuse_(reuse), pool_(pages), pages_(pages) {}

std::vector<PageId> PrefixCache::find(std::span<const PageKey> keys) const {
  std::vector<PageId> found;
  PageId parent;
  for (const PageKey& key : keys) {
    const auto at = by_key_.find(key);
    if (at == by_key_.end() || pages_[at->second.value].parent != parent) break;
    parent = at->second;
    found.push_back(parent);
  }
  return found;
}

void PrefixCache::pin(PageId id) {
  Page& page = at(id);
  MESH_CHECK(page.keyed(), "page {} has no key to be shared under", id.value);
  if (page.owners++ == 0) queue_of(page).erase({page.left, id});
}

void PrefixCache::unpin(PageId id) {
  Page& page = at(id);
  MESH_CHECK(page.owners > 0, "page {} has no owner", id.value);
  if (--page.owners > 0) return;
  if (!page.keyed()) {
    pool_.give_back(id);
    return;
  }
  page.left = ++departures_;
  queue_of(page).insert({page.left, id});
}

bool PrefixCache::take(std::uint32_t count, std::vector<PageId>& out) {
  if (count > pool_.free_pages() + cached()) return false;
  while (pool_.free_pages() < count) evict_one();
  const std::size_t before = out.size();
  const bool taken = pool_.take(count, out);
  MESH_CHECK(taken, "{} pages, {} free", count, pool_.free_pages());
  for (std::size_t i = before; i < out.size(); ++i) at(out[i]).owners = 1;
  return true;
}

bool PrefixCache::enter(PageId id, const PageKey& key, const PageKey& parent_key) {
  Page& page = at(id);
  MESH_CHECK(page.owners == 1 && !page.keyed(), "page {} with {} owners", id.value, page.owners);
  if (!reuse_ || key == kRootKey || by_key_.contains(key)) return false;
  PageId parent;
  if (parent_key != kRootKey) {
    const auto found = by_key_.find(parent_key);
    if (found == by_key_.end()) return false;
    parent = found->second;
  }
  by_key_.emplace(key, id);
  page.key = key;
  page.parent = parent;
  if (parent.value == 0) return true;
  Page& above = at(parent);
  if (above.owners == 0 && above.child.value == 0) {
    leaves_.erase({above.left, parent});
    inner_.insert({above.left, parent});
  }
  page.next = above.child;
  if (above.child.value != 0) at(above.child).previous = id;
  above.child = id;
  return true;
}

void PrefixCache::forget() {
  std::vector<PageId> held;
  for (const auto& [key, page] : by_key_) held.push_back(page);
  std::sort(held.begin(), held.end());
  for (std::size_t i = held.size(); i > 0; --i)
    if (at(held[i - 1]).keyed()) drop(held[i - 1]);
}

// A cached page is without cached children at the latest where its branch ends; below that there
// may still be pages of a sequence that computed the parent's rows itself, in a page of its own.
void PrefixCache::evict_one() {
  if (!leaves_.empty()) {
    drop(leaves_.begin()->second);
    return;
  }
  for (const auto& [left, id] : inner_) {
    bool cached_child = false;
    for (PageId child = at(id).child; child.value != 0; child = at(child).next)
      cached_child = cached_child || at(child).owners == 0;
    if (cached_child) continue;
    drop(id);
    return;
  }
  MESH_CHECK(false, "{} cached pages and none to evict", inner_.size());
}

// Takes the keys of a page and of all below it away, the lowest first, and frees those that nobody
// owns.
void PrefixCache::drop(PageId top) {
  std::vector<PageId> branch{top};
  for (std::size_t i = 0; i < branch.size(); ++i)
    for (PageId child = at(branch[i]).child; child.value != 0; child = at(child).next)
      branch.push_back(child);
  for (std::size_t i = branch.size(); i > 0; --i) {
    const PageId id = branch[i - 1];
    Page& page = at(id);
    if (page.owners == 0) leaves_.erase({page.left, id});
    unlink(id);
    by_key_.erase(page.key);
    page.key = kRootKey;
    if (page.owners == 0) pool_.give_back(id);
  }
}

// Takes a page without children out of its parent's list.
void PrefixCache::unlink(PageId id) {
  Page& page = at(id);
  MESH_CHECK(page.child.value == 0, "page {} still has children", id.value);
  if (page.next.value != 0) at(page.next).previous = page.previous;
  if (page.previous.value != 0) at(page.previous).next = page.next;
  if (page.parent.value != 0 && page.previous.value == 0) {
    Page& above = at(page.parent);
    above.child = page.next;
    if (above.owners == 0 && above.child.value == 0) {
      inner_.erase({above.left, page.parent});
      leaves_.insert({above.left, page.parent});
    }
  }
  page.parent = page.next = page.previous = PageId{};
}

}  // namespace mesh::kvcache
