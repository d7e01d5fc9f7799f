#pragma once
// Names of whole pages by what led to them. Two pages have the same key exactly when the tokens of
// all positions up to their end are the same, so a key found is content found.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"

namespace mesh::kvcache {

// Positions of one page; the engine asserts that it equals the page of the operator interface.
inline constexpr std::uint32_t kPagePositions = limits::kKeyedPageTokens;

// SHA-256 truncated to 16 bytes.
using PageKey = std::array<std::uint8_t, limits::kPageKeyBytes>;

// The parent of a sequence's first page.
inline constexpr PageKey kRootKey{};

// Key of the page after `parent` that holds these kPagePositions tokens: the digest of the parent's
// 16 bytes followed by each id as 4 little-endian bytes. Same numbers on every machine.
PageKey next_key(const PageKey& parent, std::span<const TokenId> page);

// Keys of the first `count` pages of a text, or of as many whole pages as it has.
std::vector<PageKey> page_keys(std::span<const TokenId> tokens, std::size_t count);

// A key as messages carry it: 16 raw bytes. Nothing when the bytes are not 16.
std::string key_bytes(const PageKey& key);
std::optional<PageKey> key_from(std::string_view bytes);

}  // namespace mesh::kvcache
