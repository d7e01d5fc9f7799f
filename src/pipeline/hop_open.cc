// How sequences of a stage begin and end.

#include <fmt/format.h>

#include <utility>

#include "base/limits.h"
#include "pipeline/hop.h"

namespace mesh::pipeline {

// What an entry may ask for at all: checked before anything is allocated for it.
Result<void> Hop::check_lengths(const wire::Open& open) const {
  const std::uint64_t prefill = std::uint64_t{open.prompt_tokens} + open.replayed;
  if (open.prompt_tokens == 0 || open.replayed >= open.new_tokens_max)
    return Error(Code::kInvalidArgument,
                 fmt::format("{} prompt tokens and {} of {} tokens of the answer leave no work",
                             open.prompt_tokens, open.replayed, open.new_tokens_max));
  if (open.positions_max < prefill)
    return Error(Code::kInvalidArgument, fmt::format("{} positions reserved for {} that are known",
                                                     open.positions_max, prefill));
  const std::uint32_t context = compute_.shape().context;
  if (open.positions_max > context)
    return Error(
        Code::kInvalidArgument,
        fmt::format("{} positions wanted, the model's context is {}", open.positions_max, context));
  return {};
}

// The last stage needs ids that the sampler may use as indices.
Result<void> Hop::check_answer(const wire::Open& open) const {
  const SamplingParams& params = open.sampling;
  if (params.prompt_logprobs && open.prompt_ids.size() != open.prompt_tokens)
    return Error(Code::kInvalidArgument,
                 fmt::format("log-probabilities wanted of a prompt of {}, {} ids given",
                             open.prompt_tokens, open.prompt_ids.size()));
  if (params.repetition_penalty != 1.0f && open.prompt_ids.empty())
    return Error(Code::kInvalidArgument, "a repetition penalty without the prompt's ids");
  if (open.prompt_ids.size() > open.prompt_tokens)
    return Error(Code::kInvalidArgument, fmt::format("{} ids of a prompt of {}",
                                                     open.prompt_ids.size(), open.prompt_tokens));
  if (params.penalises() && open.replayed_ids.size() != open.replayed)
    return Error(Code::kInvalidArgument, fmt::format("penalties over {} replayed tokens, {} given",
                                                     open.replayed, open.replayed_ids.size()));
  std::vector<TokenId> biased;
  for (const auto& [token, bias] : params.logit_bias) biased.push_back(token);
  MESH_RETURN_IF_ERROR(check_tokens(biased));
  MESH_RETURN_IF_ERROR(check_tokens(open.prompt_ids));
  return check_tokens(open.replayed_ids);
}

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
  if (open.stages.empty() || open.stages.back().layers.end != layers)
    return Error(Code::kInvalidArgument,
                 fmt::format("the route ends at layer {}, the model has {}",
                             open.stages.empty() ? 0 : open.stages.back().layers.end, layers));
  MESH_RETURN_IF_ERROR(check_lengths(open));
  if (sequences_.size() >= limits::kSequencesPerStage)
    return Error(Code::kResourceExhausted,
                 fmt::format("{} sequences are open on this stage", sequences_.size()), true);
  if (sequences_.contains(open.sequence))
    return Error(Code::kInvalidArgument, "the sequence is already open");
  const PeerId self = env_.transport.self();
  for (std::size_t i = 0; i < open.stages.size(); ++i)
    if (open.stages[i].node == self) {
      if (i + 1 == open.stages.size()) MESH_RETURN_IF_ERROR(check_answer(open));
      if (open.stages[i].layers == holding_.layers) return i;
      return Error(Code::kUnavailable,
                   fmt::format("the route wants layers {} here, this node holds {}",
                               open.stages[i].layers.to_string(), holding_.layers.to_string()),
                   true);
    }
  return Error(Code::kInvalidArgument, "this node is not on the route");
}

void Hop::on_open(PeerId from, const wire::Open& open) {
  const auto refuse = [&](const Error& why) { reply(from, {open.sequence, why, 0, 0}); };
  if (open.entry != from)
    return refuse(Error(Code::kInvalidArgument, "OPEN not sent by its entry"));
  const Result<std::size_t> index = check_open(open);
  if (!index.ok()) return refuse(index.error());
  // Where every row of the prompt is wanted, none may be skipped.
  std::vector<kvcache::PageKey> keys;
  if (!open.sampling.prompt_logprobs)
    for (const std::string& bytes : open.page_keys) {
      const std::optional<kvcache::PageKey> key = kvcache::key_from(bytes);
      if (!key) break;
      keys.push_back(*key);
    }
  const std::uint32_t prefill_end = open.prompt_tokens + open.replayed;
  keys.resize(std::min<std::size_t>(keys.size(), (prefill_end - 1) / kvcache::kPagePositions));
  const Result<std::uint32_t> cached = pages_->open(open.sequence, open.positions_max, keys);
  if (!cached.ok()) return refuse(cached.error());
  Sequence& sequence = sequences_[open.sequence];
  sequence.entry = open.entry;
  sequence.stages = open.stages;
  sequence.route = wire::route_handle(open.epoch, open.stages);
  sequence.index = *index;
  sequence.prompt_tokens = open.prompt_tokens;
  sequence.prefill_end = prefill_end;
  sequence.positions_max = open.positions_max;
  sequence.positions_end =
      static_cast<std::uint32_t>(std::min(std::uint64_t{open.prompt_tokens} + open.new_tokens_max,
                                          std::uint64_t{compute_.shape().context}));
  sequence.new_tokens_max = open.new_tokens_max;
  sequence.cached = *cached;
  sequence.credit = prefill_end;
  sequence.opened = env_.clock.now();
  if (sequence.last()) open_answer(open, sequence);
  reply(from, {open.sequence, std::nullopt, *cached, open.positions_max});
}

// What the last stage keeps to sample the answer.
void Hop::open_answer(const wire::Open& open, Sequence& sequence) const {
  auto params = std::make_shared<SamplingParams>(open.sampling);
  // An id that the model does not have is never drawn, and may not be banned by its index either.
  const std::uint32_t vocabulary = compute_.shape().vocabulary;
  if (vocabulary > 0)
    params->stop_ids.erase(
        std::remove_if(
            params->stop_ids.begin(), params->stop_ids.end(),
            [&](TokenId id) { return id < 0 || static_cast<std::uint32_t>(id) >= vocabulary; }),
        params->stop_ids.end());
  if (params->prompt_logprobs) sequence.prompt_ids = open.prompt_ids;
  if (params->penalises()) {
    sequence.history = std::make_shared<engine::TokenHistory>();
    std::vector<TokenId>& prompt = sequence.history->prompt;
    prompt = open.prompt_ids;
    std::sort(prompt.begin(), prompt.end());
    prompt.erase(std::unique(prompt.begin(), prompt.end()), prompt.end());
    for (TokenId token : open.replayed_ids) ++sequence.history->output[token];
  }
  sequence.sampling = std::move(params);
}

void Hop::reply(PeerId to, const wire::OpenReply& answer) {
  // A lost entry needs no answer.
  (void)env_.transport.send(to, wire::encode(answer)).ok();
}

Hop::Sequence* Hop::owned(PeerId from, SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end() || found->second.closing || found->second.entry != from)
    return nullptr;
  return &found->second;
}

void Hop::on_close(PeerId from, const wire::Close& close) {
  for (SequenceId id : close.sequences)
    if (owned(from, id) != nullptr) end(id);
  pump();
}

void Hop::on_peer_down(PeerId peer) {
  window_.lost(peer);
  for (auto& [id, sequence] : sequences_) {
    if (!sequence.first() && sequence.before() == peer) sequence.prompt_due = 0;
    if (!sequence.cut && sequence.neighbour(peer)) {
      sequence.cut = env_.clock.now();
      sequence.cut_from = peer;
    }
  }
  std::vector<SequenceId> orphans;
  for (const auto& [id, sequence] : sequences_)
    if (sequence.entry == peer && !sequence.closing) orphans.push_back(id);
  for (SequenceId id : orphans) end(id);
  pump();
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
  if (!cut.empty() || !late.empty()) pump();
}

bool Hop::in_flight(SequenceId id) const {
  return std::binary_search(flying_.begin(), flying_.end(), id);
}

// Pages of a sequence whose rows are being computed stay reserved until the step is done: the
// engine still writes them.
void Hop::end(SequenceId id) {
  Sequence& sequence = sequences_.at(id);
  batcher_->drop(id);
  pacer_.dropped(id);
  sequence.prompt_waiting = 0;
  if (sequence.parked) {
    sequence.parked.reset();
    --parked_;
  }
  if (in_flight(id)) {
    sequence.closing = true;
    return;
  }
  if (!sequence.first()) {
    rows_done(sequence, sequence.prompt_due);
    tell_done(sequence.before());
    remember_closed(id, sequence);
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

}  // namespace mesh::pipeline
