#pragma once
// Byte storage and bounds-checked little-endian reading and writing.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mesh {

// Owned bytes, 64-byte aligned, not zeroed; moves, never copies silently.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t size);
  static Buffer copy_of(std::span<const std::byte> bytes);
  static Buffer copy_of(std::string_view text);
  Buffer(Buffer&&) noexcept;
  Buffer& operator=(Buffer&&) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() = default;

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  std::span<std::byte> span() { return {data_.get(), size_}; }
  std::span<const std::byte> span() const { return {data_.get(), size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_.get()), size_}; }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte[], Free> data_;
  std::size_t size_ = 0;
};

// Reads little-endian values from borrowed bytes; every read checks the bound and reports kCorrupt.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::size_t remaining() const { return bytes_.size() - at_; }
  std::size_t position() const { return at_; }
  template <typename T>
  Result<T> read() {
    static_assert(std::is_trivially_copyable_v<T>);
    if (remaining() < sizeof(T)) return short_read(sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  Result<std::span<const std::byte>> take(std::size_t count) {
    if (remaining() < count) return short_read(count);
    const auto part = bytes_.subspan(at_, count);
    at_ += count;
    return part;
  }

 private:
  Error short_read(std::size_t wanted) const;
  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
};

// Writes little-endian values into a Buffer whose size is known beforehand; overrun is our bug.
class ByteWriter {
 public:
  explicit ByteWriter(std::span<std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  void write(T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put({reinterpret_cast<const std::byte*>(&value), sizeof(T)});
  }
  void put(std::span<const std::byte> part) {
    MESH_CHECK(part.size() <= bytes_.size() - at_, "{} bytes into {} left", part.size(),
               bytes_.size() - at_);
    if (!part.empty()) std::memcpy(bytes_.data() + at_, part.data(), part.size());
    at_ += part.size();
  }
  std::size_t position() const { return at_; }

 private:
  std::span<std::byte> bytes_;
  std::size_t at_ = 0;
};

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string to_hex(std::span<const std::byte> bytes);
std::string to_hex(std::uint64_t value);  // 16 digits

}  // namespace mesh
