#pragma once
// A node's stage as the other nodes see it: reserves pages on OPEN, batches whatever rows wait at
// its input, runs them on the engine and passes hidden rows to the next stage or, on the last
// stage, the sampled tokens directly to stage 0 and to the entry. Control loop only; the engine
// computes elsewhere.
//
// A sequence lives from OPEN to CLOSE of its entry (or the loss of the link to it). A row is taken
// only at the next position of its sequence and only from the stage before, so a confused or
// hostile peer ends a sequence, not a node.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "engine/batcher.h"
#include "engine/compute.h"
#include "env/env.h"
#include "kvcache/page_tables.h"
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
  bool idle() const { return sequences_.empty() && !step_in_flight_; }

  void on_open(PeerId from, const wire::Open& open);
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

 private:
  struct Sequence {
    PeerId entry;
    std::vector<wire::StageAssignment> stages;
    RouteHandle route;
    std::size_t index = 0;  // of this stage
    std::uint32_t prompt_tokens = 0;
    std::uint32_t positions_max = 0;
    std::uint32_t new_tokens_max = 0;
    std::shared_ptr<const SamplingParams> sampling;
    std::uint32_t next_position = 0;  // of the next row to arrive
    Instant opened;
    std::optional<Instant> cut;  // since when a neighbour's link is lost
    PeerId cut_from;
    bool closing = false;  // closed while a step with its rows is in flight
    bool first() const { return index == 0; }
    bool last() const { return index + 1 == stages.size(); }
    // Whether rows or tokens pass between this stage and `peer`; the ring closes from last to
    // first.
    bool neighbour(PeerId peer) const {
      return stages[(index + 1) % stages.size()].node == peer ||
             stages[(index + stages.size() - 1) % stages.size()].node == peer;
    }
  };

  // A step on its way through the engine.
  struct Flight {
    std::vector<engine::BatchPart> parts;
    std::vector<TokenId> tokens;      // of every row, passed on to the next stage
    std::vector<SequenceId> sampled;  // sequences with a sampled row, in the order of the rows
  };

  Result<std::size_t> check_open(const wire::Open& open) const;
  void reply(PeerId to, SequenceId sequence, std::optional<Error> refused);
  Result<void> check_tokens(const std::vector<TokenId>& tokens) const;
  Result<void> check_row(const Sequence& sequence, std::uint32_t position) const;
  void enqueue(SequenceId id, Sequence& sequence, const std::vector<TokenId>& tokens,
               Buffer hidden);
  void pump();
  void step_done(const Flight& flight, Result<engine::StepOutput> output);
  void forward(const Flight& flight, const engine::StepOutput& output);
  void return_tokens(const Flight& flight, const engine::StepOutput& output);
  static wire::TokenRow token_row(SequenceId id, const Sequence& sequence, std::uint32_t position,
                                  TokenId token);
  void end(SequenceId id);
  void fail(const std::vector<SequenceId>& ids, const Error& why);
  void release_closing(const Flight& flight);
  bool in_flight(SequenceId id) const;

  env::Env& env_;
  engine::Compute& compute_;
  Holding holding_;
  std::optional<Error> refuse_new_;
  std::size_t row_bytes_ = 0;
  std::unique_ptr<kvcache::PageTables> pages_;
  std::unique_ptr<engine::Batcher> batcher_;
  std::map<SequenceId, Sequence> sequences_;
  bool step_in_flight_ = false;
  std::vector<SequenceId> flying_;  // sequences of the step in flight, ascending
  std::uint64_t rows_computed_ = 0;
  std::shared_ptr<bool> alive_ =
      std::make_shared<bool>(true);  // guards completions that outlive the hop
};

}  // namespace mesh::pipeline
