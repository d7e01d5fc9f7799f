#pragma once
// Non-cryptographic hashes (XXH3) for fingerprints and test digests; SHA-256 where two different
// inputs must never pass for each other.

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/bytes.h"

namespace mesh {

std::uint64_t xxh3_64(std::span<const std::byte> bytes, std::uint64_t seed = 0);
inline std::uint64_t xxh3_64(std::string_view text, std::uint64_t seed = 0) {
  return xxh3_64(as_bytes(text), seed);
}

// SHA-256 (FIPS 180-4) of all the bytes. Any thread.
std::array<std::uint8_t, 32> sha256(std::span<const std::byte> bytes);

// Streaming XXH3-64: the digest depends only on the bytes, not on how they were cut into updates.
class Hasher {
 public:
  explicit Hasher(std::uint64_t seed = 0);
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(as_bytes(text)); }
  template <typename T>
  void update_value(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    update(std::span{reinterpret_cast<const std::byte*>(&value), sizeof(T)});
  }
  std::uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mesh
