#include "kvcache/block_pool.h"

#include "base/check.h"

namespace mesh::kvcache {

BlockPool::BlockPool(std::uint32_t pages)
    : total_(pages > 0 ? pages - 1 : 0), is_free_(pages, std::uint8_t{1}) {
  if (pages > 0) is_free_[0] = 0;
  free_.reserve(total_);
  for (std::uint32_t page = pages; page > 1; --page) free_.push_back(PageId{page - 1});
}

bool BlockPool::is_free(PageId page) const {
  return page.value < is_free_.size() && is_free_[page.value] != 0;
}

bool BlockPool::take(std::uint32_t count, std::vector<PageId>& out) {
  if (count > free_.size()) return false;
  for (std::uint32_t i = 0; i < count; ++i) {
    const PageId page = free_.back();
    free_.pop_back();
    is_free_[page.value] = 0;
    out.push_back(page);
  }
  return true;
}

void BlockPool::give_back(PageId page) {
  MESH_CHECK(page.value > 0 && page.value < is_free_.size(), "page {} of {}", page.value,
             is_free_.size());
  MESH_CHECK(is_free_[page.value] == 0, "page {} is free already", page.value);
  is_free_[page.value] = 1;
  free_.push_back(page);
}

}  // namespace mesh::kvcache
