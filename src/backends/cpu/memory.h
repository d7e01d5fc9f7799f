#pragma once
// Memory of the backend: large blocks straight from the system, and the pool that step tensors come
// from.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace mesh::backends::cpu {

// A reservation that huge blocks are cut from (memory.cc).
struct Chunk;

// A zero-filled block of pages, aligned to a page, touched lazily; empty when the system refuses.
class Block {
 public:
  Block() = default;
  ~Block();
  Block(Block&& other) noexcept;
  Block& operator=(Block&& other) noexcept;
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // huge: in large pages, for memory that will be touched as a whole anyway. Such blocks lie side
  // by side, so that small ones share large pages; what one held goes back to the system with it.
  // Any thread.
  static Block allocate(std::uint64_t bytes, bool huge);
  std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t size_ = 0;
  std::shared_ptr<Chunk> chunk_;  // that it was cut from, if it was
};

// Buffers that outlive steps: a buffer is free when nobody but the pool holds it, so a tensor gives
// its memory back when the model code drops it, and after the first steps nothing is allocated any
// more. One thread.
class BufferPool {
 public:
  // At least `bytes` (rounded up to a power of two), 64-byte aligned, contents undefined. Out of
  // memory ends the process: activations are bounded by the batch limits.
  std::shared_ptr<void> take(std::uint64_t bytes);
  std::uint64_t bytes() const;  // held in all

 private:
  struct Entry {
    std::uint64_t bytes = 0;
    std::shared_ptr<void> memory;
  };
  std::vector<Entry> entries_;  // ascending by size
};

}  // namespace mesh::backends::cpu
