#include "kvcache/prefix_keys.h"

#include <algorithm>

#include "base/check.h"
#include "base/hash.h"

namespace mesh::kvcache {

PageKey next_key(const PageKey& parent, std::span<const TokenId> page) {
  MESH_CHECK(page.size() == kPagePositions, "{} tokens are not a page", page.size());
  std::array<std::byte, sizeof(PageKey) + 4 * kPagePositions> bytes{};
  std::size_t at = 0;
  for (const std::uint8_t byte : parent) bytes[at++] = std::byte{byte};
  for (const TokenId token : page) {
    const auto bits = static_cast<std::uint32_t>(token);
    for (unsigned shift = 0; shift < 32; shift += 8)
      bytes[at++] = static_cast<std::byte>((bits >> shift) & 0xFFu);
  }
  const std::array<std::uint8_t, 32> digest = sha256(bytes);
  PageKey key{};
  std::copy_n(digest.begin(), key.size(), key.begin());
  return key;
}

std::vector<PageKey> page_keys(std::span<const TokenId> tokens, std::size_t count) {
  count = std::min(count, tokens.size() / kPagePositions);
  std::vector<PageKey> keys;
  keys.reserve(count);
  for (std::size_t i = 0; i < count; ++i)
    keys.push_back(next_key(i == 0 ? kRootKey : keys.back(),
                            tokens.subspan(i * kPagePositions, kPagePositions)));
  return keys;
}

std::string key_bytes(const PageKey& key) {
  return std::string(key.begin(), key.end());
}

std::optional<PageKey> key_from(std::string_view bytes) {
  PageKey key{};
  if (bytes.size() != key.size()) return std::nullopt;
  std::transform(bytes.begin(), bytes.end(), key.begin(),
                 [](char c) { return static_cast<std::uint8_t>(c); });
  return key;
}

}  // namespace mesh::kvcache
