#include "engine/sampler.h"

#include <bit>
#include <cstdint>

#include "base/check.h"

namespace mesh::engine {

bool all_finite(std::span<const float> values) {
  // Integer maximum instead of isfinite(): the compiler makes vector code of it.
  std::uint32_t largest = 0;
  for (float value : values) {
    const std::uint32_t magnitude = std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu;
    largest = largest > magnitude ? largest : magnitude;
  }
  return largest < 0x7F800000u;
}

Sample greedy(std::span<const float> logits) {
  MESH_CHECK(!logits.empty(), "no logits");
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i)
    if (logits[i] > logits[best]) best = i;
  return {static_cast<TokenId>(best), all_finite(logits)};
}

}  // namespace mesh::engine
