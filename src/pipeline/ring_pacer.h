#pragma once
// How many streams stage 0 lets into one step, so that the stages of a ring work at the same time
// instead of waiting for each other. Pure: instants and durations in, a number out; no clock.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>

#include "base/ids.h"
#include "base/time.h"
#include "engine/step_cost.h"

namespace mesh::pipeline {

// A stream's next row can only start when its token has come around the ring. If all streams stand
// in one batch, every stage but one idles; with M batches on their way stage 0 works on the next
// while the others are elsewhere. M = 1 + round(ring time / step time), the ring time measured from
// the end of a batch's step here to its first token's return, both for batches of the same size.
// The least ratio of the last 2 to 4 s counts (a min filter, as the bottleneck estimate of Cardwell
// et al. 2016, "BBR"): time that a batch spent in queues must not call for yet more batches. Not
// thread-safe: it belongs to the control loop.
class RingPacer {
 public:
  // A step of stage 0 that held these generations' rows and no prompt rows took so long, from its
  // submission to its result on the control loop. Durations of zero (a simulated engine) teach
  // nothing; without any there is no cap.
  void step(std::size_t rows, Duration took) { steps_.observe(rows, 0, took); }
  // The rows of one step, one per sequence, have left for the next stage. A sequence that is out
  // already counts with its new batch.
  void sent(std::span<const SequenceId> batch, Instant now);
  // The sequence's token has come back. Unknown sequences are ignored.
  void returned(SequenceId sequence, Instant now);
  // The sequence has ended; nothing of it is awaited.
  void dropped(SequenceId sequence);

  // Batches on their way, those that have not come back whole.
  std::size_t in_flight() const { return batches_.size(); }
  // M, at least 1 and at most `running`; 1 while unknown.
  std::size_t batches(std::size_t running) const;
  // Streams of the next step when `running` are being generated and at most `at_once` batches can
  // be computed at the same time: ceil(running / min(M, at_once)), at least 1.
  std::size_t decode_cap(std::size_t running,
                         std::size_t at_once = std::numeric_limits<std::size_t>::max()) const;

 private:
  struct Batch {
    Instant sent;
    std::size_t rows = 0;  // when it left
    std::size_t out = 0;   // not returned yet
  };

  void leave(std::map<SequenceId, std::uint64_t>::iterator at);
  void learn(double ratio, Instant now);

  engine::StepCost steps_;
  std::map<std::uint64_t, Batch> batches_;   // by number of departure
  std::map<SequenceId, std::uint64_t> out_;  // the batch each sequence is in
  std::uint64_t departures_ = 0;
  // Least ring time, in steps, of the present span of time and of the one before.
  std::optional<double> present_, before_;
  Instant span_began_;
};

}  // namespace mesh::pipeline
