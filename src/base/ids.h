#pragma once
// Strong identities: two bare integers never stand side by side in a signature.

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mesh {

// Identity of a node: SHA-256 of its public key (SubjectPublicKeyInfo, DER). Shown as base32, 52
// characters.
struct PeerId {
  std::array<std::uint8_t, 32> bytes{};
  auto operator<=>(const PeerId&) const = default;
  bool empty() const { return *this == PeerId{}; }
  std::string to_string() const;  // 52 characters, lower-case base32 (RFC 4648) without padding
  std::string short_name() const { return to_string().substr(0, 8); }
  static Result<PeerId> parse(std::string_view text);
  static Result<PeerId> from_bytes(std::string_view raw);  // exactly 32 bytes
};

// Half-open range of layers [begin, end).
struct LayerRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  auto operator<=>(const LayerRange&) const = default;
  std::uint32_t size() const { return end > begin ? end - begin : 0; }
  bool empty() const { return end <= begin; }
  bool contains(std::uint32_t layer) const { return layer >= begin && layer < end; }
  std::string to_string() const;  // "3:7"
  static Result<LayerRange> parse(std::string_view text);
};

// Number of a layer plan; larger is newer. 0: no plan.
struct Epoch {
  std::uint64_t value = 0;
  auto operator<=>(const Epoch&) const = default;
};

// One generation, unique over all entries (random, drawn by the entry).
struct SequenceId {
  std::uint64_t value = 0;
  auto operator<=>(const SequenceId&) const = default;
};

// The stages of a request and its epoch, hashed to 8 bytes; every stage derives the same handle
// from OPEN.
struct RouteHandle {
  std::uint64_t value = 0;
  auto operator<=>(const RouteHandle&) const = default;
};

// One KV block of a stage's pool. Block 0 is reserved: padding rows may write there.
struct PageId {
  std::uint32_t value = 0;
  auto operator<=>(const PageId&) const = default;
};

using TokenId = std::int32_t;

}  // namespace mesh
