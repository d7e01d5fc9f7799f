#include "backends/cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

#include "base/check.h"
#include "topology/topology.h"

namespace mesh::backends::cpu {
namespace {

constexpr std::uint64_t kHugePage = 2u << 20;
constexpr std::uint64_t kSmallestBuffer = 256;

}  // namespace

Block Block::allocate(std::uint64_t bytes, bool huge) {
  Block block;
  if (bytes == 0) bytes = 1;
  // An overcommitting system grants any size and kills later; what the machine does not have is
  // refused now.
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  if (pages > 0 && page > 0 &&
      bytes / static_cast<std::uint64_t>(page) >= static_cast<std::uint64_t>(pages))
    return block;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return block;
#if defined(MADV_HUGEPAGE)
  if (huge && bytes >= kHugePage)
    (void)::madvise(memory, bytes, MADV_HUGEPAGE);  // a hint: failure costs speed only
#else
  (void)huge;
#endif
  if (bytes >= kHugePage) topology::spread_pages(memory, bytes);
  block.data_ = static_cast<std::byte*>(memory);
  block.size_ = bytes;
  return block;
}

Block::~Block() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Block::Block(Block&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Block& Block::operator=(Block&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

std::shared_ptr<void> BufferPool::take(std::uint64_t bytes) {
  const std::uint64_t wanted = std::bit_ceil(std::max(bytes, kSmallestBuffer));
  auto at =
      std::lower_bound(entries_.begin(), entries_.end(), wanted,
                       [](const Entry& entry, std::uint64_t size) { return entry.bytes < size; });
  for (auto it = at; it != entries_.end(); ++it)
    if (it->memory.use_count() == 1) return it->memory;
  void* memory = ::operator new (wanted, std::align_val_t{64}, std::nothrow);
  MESH_CHECK(memory != nullptr, "out of memory for a buffer of {} bytes", wanted);
  std::shared_ptr<void> owner(memory, [](void* p) { ::operator delete (p, std::align_val_t{64}); });
  return entries_.insert(at, Entry{wanted, std::move(owner)})->memory;
}

std::uint64_t BufferPool::bytes() const {
  std::uint64_t sum = 0;
  for (const Entry& entry : entries_) sum += entry.bytes;
  return sum;
}

}  // namespace mesh::backends::cpu
