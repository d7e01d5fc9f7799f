#pragma once
// The entry's waiting room: which sequence is opened when, and which one gives its pages up when a
// running one needs more. A pure step function; the driver does what it says.
//
// The room is ordered by arrival, also for those that come back to it, and only its head is opened;
// while nothing is refused several may be under way. After a refusal for want of pages one at a
// time is tried, when a sequence of this entry ends or after a pause that doubles. While a running
// sequence lacks pages nothing is opened.
//
// When a stage cannot give a running sequence more pages, the youngest of this entry's sequences on
// that stage goes back to the room. One after another: pages of a step in flight come back late. A
// sequence that is itself the youngest tries on for a while first, as others may end; then it gives
// way too, lest two entries wait for each other.

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/time.h"

namespace mesh::pipeline {

struct AdmissionInput {
  enum class Kind : std::uint8_t {
    kTime,           // nothing has happened
    kArrived,        // a new sequence
    kOpened,         // every stage has reserved its pages
    kNoPages,        // a stage has no pages for it, or has them no more
    kNoRoute,        // no route, or a stage cannot serve yet
    kExtendRefused,  // a stage has no more pages for a running sequence; see `sharing`
    kExtended,       // every stage has given them
    kAside,          // its reader is behind: it holds nothing and waits for kBack
    kBack,           // into the room
    kEnded,          // finished, failed, cancelled
  };
  Kind kind = Kind::kTime;
  SequenceId sequence = {};
  // Sequences, opening or running, with the refusing stage on their route; itself among them.
  std::vector<SequenceId> sharing = {};
};

struct AdmissionActions {
  std::vector<SequenceId> open;     // try to open; answered by kOpened, kNoPages or kNoRoute
  std::vector<SequenceId> extend;   // ask again for more pages
  std::vector<SequenceId> preempt;  // close on every stage; it is in the room already
  std::vector<SequenceId> full;     // not taken: the room is full. Forgotten
  std::vector<SequenceId> give_up;  // no route for kRouteRetry. Forgotten
};

class Admission {
 public:
  explicit Admission(std::size_t max_waiting = limits::kWaitingRequests)
      : max_waiting_(max_waiting) {}

  // Inputs about sequences that it does not know, or that do not fit their state, change nothing.
  AdmissionActions step(Instant now, const AdmissionInput& input);
  // When step() is due again if nothing happens before.
  std::optional<Instant> wake_at() const;

  std::size_t waiting() const { return room_.size() + aside_; }

 private:
  enum class State : std::uint8_t { kWaiting, kOpening, kRunning, kAside };
  struct Sequence {
    std::uint64_t order = 0;
    State state = State::kWaiting;
    Instant since;  // in the room
    std::uint32_t tries = 0;
    // Running and without the pages that it asked for.
    std::optional<Instant> starved;
    Instant extend_at;
    Duration pause{};
  };

  void arrive(Instant now, SequenceId id, AdmissionActions& actions);
  void refused(Instant now, SequenceId id, Sequence& sequence, bool pages);
  void extend_refused(Instant now, SequenceId id, Sequence& sequence,
                      const std::vector<SequenceId>& sharing, AdmissionActions& actions);
  void to_room(Instant now, SequenceId id, Sequence& sequence);
  void leave(Sequence& sequence);
  void pages_freed(Instant now);
  void due(Instant now, AdmissionActions& actions);

  std::size_t max_waiting_;
  std::uint64_t next_order_ = 0;
  std::map<SequenceId, Sequence> sequences_;
  std::map<std::uint64_t, SequenceId> room_;  // by order
  std::size_t aside_ = 0, opening_ = 0, starved_ = 0;
  std::size_t window_ = limits::kOpensAhead;  // sequences that may be under way
  Instant open_at_;                           // before that nothing is opened
  Duration pause_{};                          // the last one after a refusal for want of pages
  std::optional<Instant> no_route_since_;
  Instant settled_at_;  // of the last preemption
};

}  // namespace mesh::pipeline
