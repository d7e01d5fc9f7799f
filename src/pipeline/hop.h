#pragma once
// A node's stage as the other nodes see it: reserves pages on OPEN, batches whatever rows wait at
// its input, runs them on the engine and passes hidden rows to the next stage or, on the last
// stage, the sampled tokens directly to stage 0 and to the entry. Control loop only; the engine
// computes elsewhere.
//
// A sequence lives from OPEN to CLOSE of its entry (or the loss of the link to it). A row is taken
// only at the next position of its sequence and only from the stage before, so a confused or
// hostile peer ends a sequence, not a node.
//
// hop.cc takes rows, hop_open.cc opens and ends sequences, hop_grant.cc keeps what they may still
// use (pages, credit, the next stage's room for prompt rows), hop_step.cc runs steps and
// hop_answer.cc says what is sampled and what is told of it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "engine/batcher.h"
#include "engine/compute.h"
#include "engine/step_cost.h"
#include "engine/step_job.h"
#include "env/env.h"
#include "kvcache/page_tables.h"
#include "pipeline/hop_metrics.h"
#include "pipeline/prompt_window.h"
#include "pipeline/ring_pacer.h"
#include "wire/messages.h"

namespace mesh::pipeline {

// What this node has loaded and may be asked to run.
struct Holding {
  Epoch epoch;
  LayerRange layers;
  std::uint64_t fingerprint = 0;
  std::string numeric_class;
  std::uint32_t pages = 0;
};

class Hop {
 public:
  Hop(env::Env& env, engine::Compute& compute);

  // Changes what is held. Only while idle(): no sequence, no step in flight.
  void hold(const Holding& holding);
  // Same layers, newer plan: sequences of the old epoch run on to their end.
  void advance_epoch(Epoch epoch) { holding_.epoch = epoch; }
  // While draining every OPEN is refused with `why`.
  void refuse_new(std::optional<Error> why) { refuse_new_ = std::move(why); }
  // So many stages of the ring have cores of their own. With fewer than there are stages, more
  // batches on their way would only take turns and read the weights more often.
  void compute_at_once(std::size_t stages) { at_once_ = stages; }
  bool idle() const { return sequences_.empty() && !step_in_flight_; }

  void on_open(PeerId from, const wire::Open& open);
  // Answered by OPEN_REPLY with what is reserved then; a refusal changes nothing.
  void on_extend(PeerId from, const wire::Extend& extend);
  // As stage 0: rows below this position may run. Credit only grows.
  void on_credit(PeerId from, const wire::Credit& credit);
  void on_rows_done(PeerId from, const wire::RowsDone& done);
  void on_prompt(PeerId from, const wire::Prompt& prompt);
  void on_step(PeerId from, wire::StepMessage step);
  void on_tokens(PeerId from, const wire::Tokens& tokens);  // as stage 0
  void on_close(PeerId from, const wire::Close& close);
  // The link to this peer is lost. Sequences that it entered end here; those whose rows or tokens
  // pass between it and this stage end soon with a typed error to their entry, which may still be
  // linked to both and would wait in vain for what the link has lost. Soon and not at once: when
  // the peer itself is gone, the entry sees so too and says it better.
  void on_peer_down(PeerId peer);
  // Ends sequences that are cut, or not closed long after their entry's own deadline. Call at least
  // every 100 ms.
  void tick(Instant now);
  // Ends every sequence with a typed error to its entry.
  void fail_all(const Error& why);

  std::uint64_t rows_computed() const { return rows_computed_; }
  std::uint32_t pages_used() const { return pages_ ? pages_->used() : 0; }
  std::size_t sequences() const { return sequences_.size(); }
  std::size_t waiting_rows() const { return batcher_ ? batcher_->waiting_rows() : 0; }
  std::size_t row_bytes() const { return row_bytes_; }
  // Sequences whose next token waits for credit or pages (stage 0).
  std::size_t parked() const { return parked_; }
  // Prompt rows that were not computed because the cache held them.
  std::uint64_t prefix_hits() const { return prefix_hits_; }
  // Decode rows per step, over all steps that had some.
  double mean_decode_batch() const;
  // Steps of decode rows whose tokens are on their way, and the most there ever were (stage 0).
  std::size_t micro_batches() const { return pacer_.in_flight(); }
  std::size_t micro_batches_max() const { return micro_batches_max_; }
  // Prompt rows that may be sent to this peer now.
  std::size_t prompt_room(PeerId next) const { return window_.room(next); }

 private:
  struct Sequence {
    PeerId entry;
    std::vector<wire::StageAssignment> stages;
    RouteHandle route;
    std::size_t index = 0;  // of this stage
    std::uint32_t prompt_tokens = 0;
    std::uint32_t prefill_end = 0;    // positions below it are known from the start
    std::uint32_t positions_max = 0;  // reserved here
    std::uint32_t positions_end = 0;  // no row ever stands here
    std::uint32_t new_tokens_max = 0;
    std::uint32_t cached = 0;         // offered to the entry: rows may start there
    bool started = false;             // the first row has come
    std::uint32_t next_position = 0;  // of the next row to arrive
    // Last stage.
    std::shared_ptr<const SamplingParams> sampling;
    std::shared_ptr<engine::TokenHistory> history;  // when it penalises
    std::vector<TokenId> prompt_ids;                // all of them, for prompt_logprobs
    // Stage 0.
    std::uint32_t credit = 0;
    std::optional<TokenId> parked;  // the token of next_position, which may not run yet
    // Prompt rows.
    std::size_t prompt_waiting = 0;  // at this stage's input
    std::size_t prompt_due = 0;      // arrived from the stage before, not acknowledged
    Instant opened;
    std::optional<Instant> cut;  // since when a neighbour's link is lost
    PeerId cut_from;
    bool closing = false;  // closed while a step with its rows is in flight
    bool first() const { return index == 0; }
    bool last() const { return index + 1 == stages.size(); }
    PeerId before() const { return stages[index - 1].node; }
    PeerId next() const { return stages[index + 1].node; }
    // Whether rows or tokens pass between this stage and `peer`; the ring closes from last to
    // first.
    bool neighbour(PeerId peer) const {
      return stages[(index + 1) % stages.size()].node == peer ||
             stages[(index + stages.size() - 1) % stages.size()].node == peer;
    }
    bool may_run() const { return next_position < credit && next_position < positions_max; }
    bool decoding() const {
      return !closing && !parked && prompt_waiting == 0 && started && next_position >= prefill_end;
    }
    // Of `rows` rows from `first` on, those of the prompt or of a replay.
    std::size_t prompt_rows(std::uint32_t first, std::size_t rows) const {
      return first >= prefill_end ? 0 : std::min<std::size_t>(rows, prefill_end - first);
    }
  };

  // A sampled or scored row, in the order of StepOutput::sampled.
  struct Wanted {
    SequenceId sequence;
    std::uint32_t position = 0;  // of the token
    bool given = false;          // a token of the prompt
  };

  // A step on its way through the engine.
  struct Flight {
    std::vector<engine::BatchPart> parts;
    std::vector<TokenId> tokens;  // of every row, passed on to the next stage
    std::vector<Wanted> wanted;
    std::size_t decode_rows = 0;
    Instant submitted;
  };

  // hop_open.cc
  Result<std::size_t> check_open(const wire::Open& open) const;
  Result<void> check_lengths(const wire::Open& open) const;
  Result<void> check_answer(const wire::Open& open) const;
  void open_answer(const wire::Open& open, Sequence& sequence) const;
  void reply(PeerId to, const wire::OpenReply& answer);
  // The sequence if its entry is `from` and it is not ending.
  Sequence* owned(PeerId from, SequenceId id);
  void end(SequenceId id);
  void fail(const std::vector<SequenceId>& ids, const Error& why);
  bool in_flight(SequenceId id) const;

  // hop.cc
  Result<void> check_tokens(const std::vector<TokenId>& tokens) const;
  Result<void> check_token(const Sequence& sequence, const wire::TokenRow& row) const;
  Result<void> check_run(const Sequence& sequence, const wire::StepMessage& step, std::size_t begin,
                         std::size_t end) const;
  Result<void> start_at(SequenceId id, Sequence& sequence, std::uint32_t position);
  void enqueue(SequenceId id, Sequence& sequence, const std::vector<TokenId>& tokens,
               Buffer hidden);

  // hop_grant.cc
  void run_or_park(SequenceId id, Sequence& sequence, TokenId token);
  void resume(SequenceId id, Sequence& sequence);
  Result<void> grow(SequenceId id, Sequence& sequence, std::uint32_t positions);
  void rows_done(Sequence& sequence, std::size_t rows);
  void acknowledge_late(PeerId from, const wire::StepMessage& step, std::size_t begin,
                        std::size_t end);
  void tell_done(PeerId to);
  void remember_closed(SequenceId id, const Sequence& sequence);

  // hop_step.cc
  engine::BatchLimits step_limits();
  void pump();
  bool whole_ring() const { return holding_.layers == LayerRange{0, compute_.shape().layers}; }
  void step_done(const Flight& flight, Result<engine::StepOutput> output);
  void pass_on(const Flight& flight, const engine::StepOutput& output);
  void account(const Flight& flight, const Result<engine::StepOutput>& output);
  void forward(const Flight& flight, const engine::StepOutput& output);
  void send_micro_batch(RouteHandle route, const Flight& flight,
                        const std::vector<const engine::BatchPart*>& parts,
                        const engine::StepOutput& output);
  void depart(const Flight& flight);
  void release_closing(const Flight& flight);

  // hop_answer.cc
  engine::SampleRows sample_rows(const engine::BatchPart& part, const Sequence& sequence,
                                 std::vector<Wanted>& wanted) const;
  void return_tokens(const Flight& flight, const engine::StepOutput& output);
  static wire::Finish finish_of(const Sequence& sequence, std::uint32_t position, TokenId token);

  env::Env& env_;
  engine::Compute& compute_;
  Holding holding_;
  std::optional<Error> refuse_new_;
  std::size_t row_bytes_ = 0;
  std::unique_ptr<kvcache::PageTables> pages_;
  std::unique_ptr<engine::Batcher> batcher_;
  std::map<SequenceId, Sequence> sequences_;
  engine::StepCost cost_;
  RingPacer pacer_;
  // Stages that compute at the same time.
  std::size_t at_once_ = std::numeric_limits<std::size_t>::max();
  std::size_t micro_batches_max_ = 0;
  PromptWindow window_;
  bool prompts_held_ = false;
  // prefill_end of sequences that ended here, the oldest first in closed_order_: their rows may
  // still be on the way and have to be acknowledged.
  std::map<SequenceId, std::uint32_t> closed_;
  std::deque<SequenceId> closed_order_;
  std::size_t parked_ = 0;
  bool step_in_flight_ = false;
  std::vector<SequenceId> flying_;  // sequences of the step in flight, ascending
  std::uint64_t rows_computed_ = 0;
  std::uint64_t prefix_hits_ = 0;
  HopMetrics metrics_;
  std::shared_ptr<bool> alive_ =
      std::make_shared<bool>(true);  // guards completions that outlive the hop
};

}  // namespace mesh::pipeline
