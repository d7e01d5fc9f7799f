#include "pipeline/hop.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "engine/step_job.h"

namespace mesh::pipeline {

Hop::Hop(env::Env& env, engine::Compute& compute)
    : env_(env), compute_(compute), row_bytes_(compute.shape().row_bytes) {}

void Hop::hold(const Holding& holding) {
  MESH_CHECK(idle(), "hold() with {} sequences open", sequences_.size());
  holding_ = holding;
  pages_ = std::make_unique<kvcache::PageTables>(holding.pages);
  engine::BatcherOptions options;
  options.row_bytes = holding.layers.begin == 0 ? 0 : row_bytes_;
  // A step's rows may all go on in one frame: 16 bytes and one residual row each.
  options.batch_rows = std::min(limits::kBatchRows, limits::kFramePayloadBytes / (row_bytes_ + 16));
  batcher_ = std::make_unique<engine::Batcher>(options);
}

// --- opening and closing
// ----------------------------------------------------------------------------------------

Result<std::size_t> Hop::check_open(const wire::Open& open) const {
  if (refuse_new_.has_value()) return *refuse_new_;
  if (holding_.layers.empty() || !pages_)
    return Error(Code::kUnavailable, "this node holds no layers yet", true);
  if (open.epoch != holding_.epoch)
    return Error(Code::kUnavailable,
                 fmt::format("the route is of plan {}, this node serves plan {}", open.epoch.value,
                             holding_.epoch.value),
                 true);
  if (open.fingerprint != holding_.fingerprint)
    return Error(Code::kUnsupported,
                 fmt::format("the route is for model {}, this node serves model {}",
                             to_hex(open.fingerprint), to_hex(holding_.fingerprint)));
  if (open.numeric_class != holding_.numeric_class)
    return Error(Code::kUnsupported, fmt::format("the route computes in class {}, this node in {}",
                                                 open.numeric_class, holding_.numeric_class));
  // A route that ends early or late would ask the engine for what its layers cannot give.
  const std::uint32_t layers = compute_.shape().layers;
  if (open.stages.back().layers.end != layers)
    return Error(Code::kInvalidArgument, fmt::format("the route ends at layer {}, the model has {}",
                                                     open.stages.back().layers.end, layers));
  const std::uint32_t context = compute_.shape().context;
  if (open.positions_max > context)
    return Error(
        Code::kInvalidArgument,
        fmt::format("{} positions wanted, the model's context is {}", open.positions_max, context));
  if (sequences_.size() >= limits::kSequencesPerStage)
    return Error(Code::kResourceExhausted,
                 fmt::format("{} sequences are open on this stage", sequences_.size()), true);
  if (sequences_.contains(open.sequence))
    return Error(Code::kInvalidArgument, "the sequence is already open");
  const PeerId self = env_.transport.self();
  for (std::size_t i = 0; i < open.stages.size(); ++i)
    if (open.stages[i].node == self) {
      if (open.stages[i].layers == holding_.layers) return i;
      return Error(Code::kUnavailable,
                   fmt::format("the route wants layers {} here, this node holds {}",
                               open.stages[i].layers.to_string(), holding_.layers.to_string()),
                   true);
    }
  return Error(Code::kInvalidArgument, "this node is not on the route");
}

void Hop::on_open(PeerId from, const wire::Open& open) {
  if (open.entry != from)
    return reply(from, open.sequence, Error(Code::kInvalidArgument, "OPEN not sent by its entry"));
  Result<std::size_t> index = check_open(open);
  if (index.ok()) {
    const Result<void> reserved = pages_->reserve(open.sequence, open.positions_max);
    if (!reserved.ok()) index = reserved.error();
  }
  if (!index.ok()) return reply(from, open.sequence, index.error());
  Sequence& sequence = sequences_[open.sequence];
  sequence.entry = open.entry;
  sequence.stages = open.stages;
  sequence.route = wire::route_handle(open.epoch, open.stages);
  sequence.index = *index;
  sequence.prompt_tokens = open.prompt_tokens;
  sequence.positions_max = open.positions_max;
  sequence.new_tokens_max = open.new_tokens_max;
  sequence.sampling = std::make_shared<const SamplingParams>(open.sampling);
  sequence.opened = env_.clock.now();
  reply(from, open.sequence, std::nullopt);
}

void Hop::reply(PeerId to, SequenceId sequence, std::optional<Error> refused) {
  // A lost entry needs no answer.
  (void)env_.transport.send(to, wire::encode(wire::OpenReply{sequence, std::move(refused)})).ok();
}

void Hop::on_close(PeerId from, const wire::Close& close) {
  for (SequenceId id : close.sequences) {
    const auto found = sequences_.find(id);
    if (found != sequences_.end() && found->second.entry == from) end(id);
  }
}

void Hop::on_peer_down(PeerId peer) {
  std::vector<SequenceId> orphans;
  for (const auto& [id, sequence] : sequences_)
    if (sequence.entry == peer) orphans.push_back(id);
  for (SequenceId id : orphans) end(id);
  for (auto& [id, sequence] : sequences_)
    if (!sequence.cut && sequence.neighbour(peer)) {
      sequence.cut = env_.clock.now();
      sequence.cut_from = peer;
    }
}

void Hop::tick(Instant now) {
  std::vector<SequenceId> late;
  std::map<PeerId, std::vector<SequenceId>> cut;
  for (const auto& [id, sequence] : sequences_) {
    if (now - sequence.opened >= limits::kSequenceLifetime) late.push_back(id);
    if (sequence.cut && now - *sequence.cut >= limits::kHeartbeat)
      cut[sequence.cut_from].push_back(id);
  }
  for (const auto& [peer, ids] : cut)
    fail(ids, Error(Code::kUnavailable,
                    fmt::format("nodes {} and {} of the route lost their link",
                                env_.transport.self().short_name(), peer.short_name()),
                    true));
  fail(late, Error(Code::kDeadlineExceeded, "the entry did not close the sequence in time"));
}

bool Hop::in_flight(SequenceId id) const {
  return std::binary_search(flying_.begin(), flying_.end(), id);
}

// Pages of a sequence whose rows are being computed stay reserved until the step is done: the
// engine still writes them.
void Hop::end(SequenceId id) {
  batcher_->drop(id);
  if (in_flight(id)) {
    sequences_.at(id).closing = true;
    return;
  }
  pages_->release(id);
  sequences_.erase(id);
}

void Hop::fail_all(const Error& why) {
  std::vector<SequenceId> all;
  for (const auto& [id, sequence] : sequences_) all.push_back(id);
  fail(all, why);
}

void Hop::fail(const std::vector<SequenceId>& ids, const Error& why) {
  std::map<PeerId, std::vector<SequenceId>> by_entry;
  for (SequenceId id : ids) {
    const auto found = sequences_.find(id);
    if (found == sequences_.end() || found->second.closing) continue;
    by_entry[found->second.entry].push_back(id);
    end(id);
  }
  for (auto& [entry, sequences] : by_entry)
    (void)env_.transport.send(entry, wire::encode(wire::Fail{std::move(sequences), why})).ok();
}

// --- rows in
// ----------------------------------------------------------------------------------------------------

Result<void> Hop::check_row(const Sequence& sequence, std::uint32_t position) const {
  if (position != sequence.next_position)
    return Error(Code::kCorrupt, fmt::format("a row for position {} arrived where {} was due",
                                             position, sequence.next_position));
  if (position >= sequence.positions_max)
    return Error(Code::kCorrupt, fmt::format("position {} is beyond the {} reserved", position,
                                             sequence.positions_max));
  return {};
}

// Here, so that a token which the engine would refuse ends its own sequence and not the whole
// batch.
Result<void> Hop::check_tokens(const std::vector<TokenId>& tokens) const {
  const std::uint32_t vocabulary = compute_.shape().vocabulary;
  if (vocabulary == 0) return {};
  for (TokenId token : tokens)
    if (token < 0 || static_cast<std::uint32_t>(token) >= vocabulary)
      return Error(Code::kInvalidArgument,
                   fmt::format("token {} is outside the vocabulary of {}", token, vocabulary));
  return {};
}

void Hop::on_prompt(PeerId from, const wire::Prompt& prompt) {
  const auto found = sequences_.find(prompt.sequence);
  if (found == sequences_.end() || found->second.closing || found->second.entry != from) return;
  Sequence& sequence = found->second;
  if (!sequence.first() || sequence.next_position != 0 ||
      prompt.tokens.size() != sequence.prompt_tokens)
    return fail({prompt.sequence},
                Error(Code::kCorrupt, "a prompt arrived that this stage did not expect"));
  if (const Result<void> known = check_tokens(prompt.tokens); !known.ok())
    return fail({prompt.sequence}, known.error());
  enqueue(prompt.sequence, sequence, prompt.tokens, Buffer());
  pump();
}

void Hop::on_tokens(PeerId from, const wire::Tokens& tokens) {
  for (const wire::TokenRow& row : tokens.rows) {
    const auto found = sequences_.find(row.sequence);
    if (found == sequences_.end() || found->second.closing) continue;
    Sequence& sequence = found->second;
    if (!sequence.first() || sequence.stages.back().node != from ||
        row.finish != wire::Finish::kNone)
      continue;
    Result<void> fits = check_row(sequence, row.position);
    if (fits.ok()) fits = check_tokens({row.token});
    if (fits.ok())
      enqueue(row.sequence, sequence, {row.token}, Buffer());
    else
      fail({row.sequence}, fits.error());
  }
  pump();
}

void Hop::on_step(PeerId from, wire::StepMessage step) {
  // Rows of one sequence are consecutive in a micro-batch; each run becomes one entry of the
  // batcher.
  for (std::size_t begin = 0, end_row = 0; begin < step.rows.size(); begin = end_row) {
    const SequenceId id = step.rows[begin].sequence;
    end_row = begin + 1;
    while (end_row < step.rows.size() && step.rows[end_row].sequence == id) ++end_row;
    const auto found = sequences_.find(id);
    if (found == sequences_.end() || found->second.closing) continue;  // closed meanwhile
    Sequence& sequence = found->second;
    // Nobody but the stage before may touch a sequence, not even to end it.
    if (sequence.first() || sequence.stages[sequence.index - 1].node != from) {
      env_.events.warn("rows.stray", {{"peer", from.short_name()}, {"sequence", to_hex(id.value)}});
      continue;
    }
    Result<void> fits;
    if (sequence.route != step.route)
      fits = Error(Code::kCorrupt, "rows arrived for another route than the sequence has");
    std::vector<TokenId> tokens;
    for (std::size_t row = begin; row < end_row && fits.ok(); ++row) {
      fits = check_row(sequence, step.rows[row].position - static_cast<std::uint32_t>(row - begin));
      if (fits.ok() && step.rows[row].position >= sequence.positions_max)
        fits = Error(Code::kCorrupt, "rows beyond the reserved positions");
      tokens.push_back(step.rows[row].token);
    }
    if (!fits.ok()) {
      fail({id}, fits.error());
      continue;
    }
    enqueue(id, sequence, std::move(tokens),
            Buffer::copy_of(
                step.hidden.span().subspan(begin * row_bytes_, (end_row - begin) * row_bytes_)));
  }
  pump();
}

void Hop::enqueue(SequenceId id, Sequence& sequence, const std::vector<TokenId>& tokens,
                  Buffer hidden) {
  const std::uint32_t first = sequence.next_position;
  sequence.next_position += static_cast<std::uint32_t>(tokens.size());
  const bool decode = first >= sequence.prompt_tokens;
  const Result<void> queued =
      batcher_->add_rows(id, static_cast<std::int32_t>(first), tokens, std::move(hidden), decode);
  if (!queued.ok()) fail({id}, queued.error());
}

// --- the step
// ---------------------------------------------------------------------------------------------------

void Hop::pump() {
  if (step_in_flight_ || !batcher_) return;
  std::optional<engine::BatchPlan> plan = batcher_->next();
  if (!plan.has_value()) return;
  Flight flight;
  flight.parts = plan->parts;
  flight.tokens = plan->tokens;
  std::vector<std::uint8_t> sample;
  flying_.clear();
  for (const engine::BatchPart& part : flight.parts) {
    const Sequence& sequence = sequences_.at(part.sequence);
    flying_.push_back(part.sequence);
    // The last prompt row and every generated row give a token.
    const auto length = static_cast<std::uint32_t>(part.first_position + part.rows);
    sample.push_back(sequence.last() && length >= sequence.prompt_tokens ? 1 : 0);
    if (sample.back() != 0) flight.sampled.push_back(part.sequence);
  }
  std::sort(flying_.begin(), flying_.end());
  step_in_flight_ = true;
  Result<engine::StepJob> job = engine::make_step_job(std::move(*plan), *pages_, sample);
  if (!job.ok()) return step_done(flight, job.error());
  compute_.submit(std::move(*job), [this, alive = std::weak_ptr<bool>(alive_),
                                    flight = std::move(flight)](Result<engine::StepOutput> output) {
    if (!alive.expired()) step_done(flight, std::move(output));
  });
}

void Hop::step_done(const Flight& flight, Result<engine::StepOutput> output) {
  step_in_flight_ = false;
  flying_.clear();
  release_closing(flight);
  if (!output.ok()) {
    std::vector<SequenceId> all;
    for (const engine::BatchPart& part : flight.parts) all.push_back(part.sequence);
    fail(all, output.error());
    return pump();
  }
  std::vector<SequenceId> broken;
  for (std::size_t s = 0; s < flight.parts.size(); ++s) {
    rows_computed_ += static_cast<std::uint64_t>(flight.parts[s].rows);
    if (output->non_finite[s] != 0) broken.push_back(flight.parts[s].sequence);
  }
  if (!broken.empty())
    fail(broken, Error(Code::kInternal,
                       fmt::format("non_finite: layers {} gave numbers that are not finite",
                                   holding_.layers.to_string())));
  if (output->residual_out.empty())
    return_tokens(flight, *output);
  else
    forward(flight, *output);
  pump();
}

void Hop::release_closing(const Flight& flight) {
  for (const engine::BatchPart& part : flight.parts) {
    const auto found = sequences_.find(part.sequence);
    if (found != sequences_.end() && found->second.closing) end(part.sequence);
  }
}

void Hop::forward(const Flight& flight, const engine::StepOutput& output) {
  // One micro-batch per route: its rows share the next stage and the 8-byte handle.
  std::map<RouteHandle, std::pair<PeerId, std::vector<const engine::BatchPart*>>> routes;
  for (const engine::BatchPart& part : flight.parts) {
    const auto found = sequences_.find(part.sequence);
    if (found == sequences_.end()) continue;
    auto& [next, parts] = routes[found->second.route];
    next = found->second.stages[found->second.index + 1].node;
    parts.push_back(&part);
  }
  for (const auto& [handle, target] : routes) {
    wire::StepMessage message;
    message.route = handle;
    std::vector<SequenceId> carried;
    for (const engine::BatchPart* part : target.second) {
      carried.push_back(part->sequence);
      for (std::int32_t i = 0; i < part->rows; ++i)
        message.rows.push_back({part->sequence,
                                static_cast<std::uint32_t>(part->first_position + i),
                                flight.tokens[static_cast<std::size_t>(part->offset + i)]});
    }
    message.hidden = Buffer(message.rows.size() * row_bytes_);
    std::byte* at = message.hidden.data();
    for (const engine::BatchPart* part : target.second) {
      const std::size_t bytes = static_cast<std::size_t>(part->rows) * row_bytes_;
      std::memcpy(at,
                  output.residual_out.data() + static_cast<std::size_t>(part->offset) * row_bytes_,
                  bytes);
      at += bytes;
    }
    const Result<void> sent = env_.transport.send(target.first, wire::encode(message));
    if (!sent.ok())
      fail(carried,
           Error(Code::kUnavailable, fmt::format("the next stage, node {}, cannot be reached: {}",
                                                 target.first.short_name(), sent.error().message)));
  }
}

// `position` is the row's; the sampled token sits one further.
wire::TokenRow Hop::token_row(SequenceId id, const Sequence& sequence, std::uint32_t position,
                              TokenId token) {
  wire::TokenRow row;
  row.sequence = id;
  row.position = position + 1;
  row.token = token;
  const std::vector<TokenId>& stop_ids = sequence.sampling->stop_ids;
  const bool stop = std::find(stop_ids.begin(), stop_ids.end(), token) != stop_ids.end();
  if (stop)
    row.finish = wire::Finish::kStop;
  else if (position + 2 >= sequence.prompt_tokens + sequence.new_tokens_max)
    row.finish = wire::Finish::kLength;
  return row;
}

void Hop::return_tokens(const Flight& flight, const engine::StepOutput& output) {
  std::map<PeerId, wire::Tokens> by_peer;
  std::size_t next = 0;
  for (const engine::BatchPart& part : flight.parts) {
    if (next >= flight.sampled.size() || flight.sampled[next] != part.sequence) continue;
    const TokenId token = output.sampled[next++].token;
    const auto found = sequences_.find(part.sequence);
    if (found == sequences_.end()) continue;
    const auto last = static_cast<std::uint32_t>(part.first_position + part.rows - 1);
    const wire::TokenRow row = token_row(part.sequence, found->second, last, token);
    const PeerId first = found->second.stages.front().node;
    by_peer[found->second.entry].rows.push_back(row);
    if (first != found->second.entry) by_peer[first].rows.push_back(row);
  }
  for (const auto& [peer, tokens] : by_peer) {
    const Result<void> sent = env_.transport.send(peer, wire::encode(tokens));
    if (sent.ok()) continue;
    // Without this token the sequence would stand still until its deadline.
    std::vector<SequenceId> stuck;
    for (const wire::TokenRow& row : tokens.rows) stuck.push_back(row.sequence);
    fail(stuck, Error(Code::kUnavailable, fmt::format("a token cannot be returned to node {}: {}",
                                                      peer.short_name(), sent.error().message)));
  }
}

}  // namespace mesh::pipeline
