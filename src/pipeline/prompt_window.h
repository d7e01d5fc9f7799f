#pragma once
// Flow control of prompt rows between stages. A prompt gives more rows than the next stage may be
// able to compute at once, and each brings a residual row: a stage sends at most
// limits::kPromptRowsAhead that the next one has not answered with ROWS_DONE. Decode rows are not
// counted. Pure bookkeeping, one count per peer and direction; belongs to the control loop.

#include <cstddef>
#include <cstdint>
#include <map>

#include "base/ids.h"

namespace mesh::pipeline {

class PromptWindow {
 public:
  // Rows that may be sent to this peer now.
  std::size_t room(PeerId next) const;
  // A link sends no row beyond room(): our bug otherwise.
  void sent(PeerId next, std::size_t rows);
  // More than were sent count as all that were sent: the number comes from a peer.
  void acknowledged(PeerId next, std::size_t rows);

  // Rows of this peer that wait here.
  void arrived(PeerId from, std::size_t rows);
  // So many of them were computed or dropped.
  void done(PeerId from, std::size_t rows);
  // What ROWS_DONE says now: all that is not acknowledged, once that is limits::kPromptRowsDone or
  // none of this peer's rows wait, else 0. They count as acknowledged.
  std::uint32_t tell(PeerId from);

  // Both ends of a lost link start again from nothing.
  void lost(PeerId peer);

 private:
  struct Incoming {
    std::size_t waiting = 0;  // arrived, not done
    std::size_t done = 0;     // done, not acknowledged
  };
  std::map<PeerId, std::size_t> ahead_;  // sent, not acknowledged
  std::map<PeerId, Incoming> incoming_;
};

}  // namespace mesh::pipeline
