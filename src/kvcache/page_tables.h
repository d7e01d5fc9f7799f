#pragma once
// Which sequence owns which pages of one stage. Pages are reserved for the whole length a sequence
// may reach before its prefill starts, so that a stage never runs out in mid-sentence.

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "kvcache/block_pool.h"

namespace mesh::kvcache {

// Positions of one page; the engine asserts that it equals the page of the operator interface.
inline constexpr std::uint32_t kPagePositions = 64;

// Pages that hold `positions` positions.
constexpr std::uint32_t pages_for(std::uint32_t positions) {
  return positions / kPagePositions + (positions % kPagePositions != 0 ? 1 : 0);
}

// Not thread-safe: it belongs to the control loop. Page p of a sequence holds its positions
// [64p, 64p + 64).
class PageTables {
 public:
  // `pages` as the pool of the stage has them, reserved page 0 included.
  explicit PageTables(std::uint32_t pages) : pool_(pages) {}

  // Makes the sequence own pages for positions [0, positions_max). All or nothing; a sequence that
  // owns some already grows to the new length and never shrinks. Errors: invalid_argument (no
  // positions), resource_exhausted (names the pages wanted and free, or the limit on sequences).
  Result<void> reserve(SequenceId sequence, std::uint32_t positions_max);
  // Pages in order of position; empty for an unknown sequence. Valid until the next call that
  // changes this sequence.
  std::span<const PageId> pages(SequenceId sequence) const;
  // Gives all pages of the sequence back, the highest position first, so that the next owner gets
  // them in the same order. False: the sequence owns none.
  bool release(SequenceId sequence);

  bool contains(SequenceId sequence) const { return tables_.contains(sequence); }
  std::size_t sequences() const { return tables_.size(); }
  std::uint32_t used() const { return pool_.used(); }
  std::uint32_t total() const { return pool_.total(); }

 private:
  BlockPool pool_;
  std::map<SequenceId, std::vector<PageId>> tables_;
};

}  // namespace mesh::kvcache
