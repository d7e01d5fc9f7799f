#include "backends/cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <new>
#include <utility>

#include "base/check.h"
#include "topology/topology.h"

namespace mesh::backends::cpu {
namespace {

constexpr std::uint64_t kHugePage = 2u << 20;
constexpr std::uint64_t kChunkBytes = 64u << 20;
constexpr std::uint64_t kSmallestBuffer = 256;

std::uint64_t page_bytes() {
  static const long bytes = ::sysconf(_SC_PAGESIZE);
  return bytes > 0 ? static_cast<std::uint64_t>(bytes) : 4096;
}
std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::byte* map_pages(std::uint64_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

}  // namespace

// Address space whose first byte begins a huge page. Blocks are cut from it one behind the other
// and none is used twice; it is given back with the last of them.
struct Chunk {
  std::byte* data = nullptr;
  std::uint64_t size = 0, used = 0;

  Chunk() = default;
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;
  ~Chunk() {
    if (data != nullptr) ::munmap(data, size);
  }

  // Null when the system refuses.
  static std::shared_ptr<Chunk> reserve(std::uint64_t bytes) {
    auto chunk = std::make_shared<Chunk>();
    const std::uint64_t size = round_up(bytes, kHugePage);
    std::byte* const memory = map_pages(size + kHugePage);
    if (memory == nullptr) return nullptr;
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    const std::uint64_t before = round_up(address, kHugePage) - address;
    if (before > 0) ::munmap(memory, before);
    ::munmap(memory + before + size, kHugePage - before);
    chunk->data = memory + before;
    chunk->size = size;
#if defined(MADV_HUGEPAGE)
    (void)::madvise(chunk->data, size, MADV_HUGEPAGE);  // a hint: failure costs speed only
#endif
    topology::spread_pages(chunk->data, size);
    return chunk;
  }
};

namespace {

// The chunk that the next huge block is cut from, as long as any block of it lives.
struct Cutting {
  std::mutex mutex;
  std::weak_ptr<Chunk> chunk;
};

// A chunk with room for so many bytes at its `used`, which are taken; null when the system refuses.
std::shared_ptr<Chunk> cut(std::uint64_t bytes, std::byte*& data) {
  static Cutting cutting;
  const std::lock_guard lock(cutting.mutex);
  std::shared_ptr<Chunk> chunk = cutting.chunk.lock();
  if (chunk == nullptr || chunk->size - chunk->used < bytes) {
    chunk = Chunk::reserve(std::max(bytes, kChunkBytes));
    if (chunk == nullptr) return nullptr;
    cutting.chunk = chunk;
  }
  data = chunk->data + chunk->used;
  chunk->used += bytes;
  return chunk;
}

}  // namespace

Block Block::allocate(std::uint64_t bytes, bool huge) {
  Block block;
  if (bytes == 0) bytes = 1;
  // An overcommitting system grants any size and kills later; what the machine does not have is
  // refused now.
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  if (pages > 0 && bytes / page_bytes() >= static_cast<std::uint64_t>(pages)) return block;
  if (huge) {
    block.chunk_ = cut(round_up(bytes, page_bytes()), block.data_);
  } else {
    block.data_ = map_pages(bytes);
    if (block.data_ != nullptr && bytes >= kHugePage) topology::spread_pages(block.data_, bytes);
  }
  if (block.data_ != nullptr) block.size_ = bytes;
  return block;
}

Block::~Block() {
  if (data_ == nullptr) return;
  if (chunk_ == nullptr)
    ::munmap(data_, size_);
  else
    (void)::madvise(data_, round_up(size_, page_bytes()), MADV_DONTNEED);
}

Block::Block(Block&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      chunk_(std::move(other.chunk_)) {}

Block& Block::operator=(Block&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(chunk_, other.chunk_);
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
