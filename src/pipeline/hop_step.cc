// The steps of a stage: which rows run next, and what becomes of what they give.

#include <fmt/format.h>

#include <cstring>
#include <set>
#include <utility>

#include "base/limits.h"
#include "pipeline/hop.h"

namespace mesh::pipeline {

// Decode rows: at stage 0 so few that several micro-batches are on their way at once. Prompt rows:
// as many as delay the running generations little, and as the next stages have room for.
engine::BatchLimits Hop::step_limits() {
  std::size_t room = limits::kBatchRows, waiting = 0, running = 0, stages = 0;
  for (const auto& [id, sequence] : sequences_) {
    stages = std::max(stages, sequence.stages.size());
    if (sequence.decoding()) ++running;
    if (sequence.prompt_waiting == 0) continue;
    waiting += sequence.prompt_waiting;
    // The least room of all: which prompt comes first is the batcher's choice.
    if (!sequence.last()) room = std::min(room, window_.room(sequence.next()));
  }
  const bool held = waiting > 0 && room == 0;
  if (held && !prompts_held_) metrics_.held_by_prompt_rows.add();
  prompts_held_ = held;
  engine::BatchLimits most;
  most.prompts_wait = held;
  // A stage that is the whole ring has nobody to keep busy meanwhile.
  if (running > 0 && holding_.layers.begin == 0 && !whole_ring()) {
    most.decode_rows = pacer_.decode_cap(running, at_once_);
    most.decodes_wait = stages > at_once_ && pacer_.in_flight() >= at_once_;
  }
  // Generations that are elsewhere in the ring come back while this step runs.
  const std::size_t beside = std::clamp<std::size_t>(
      batcher_->waiting_decodes(), std::min<std::size_t>(running, 1), most.decode_rows);
  // The stages behind wait for the first part of a prompt and the ones before for the last: with N
  // parts over S stages they compute N / (N + S - 1) of the time.
  // A later stage takes what has come: it only lags behind when it is the slowest.
  const bool cuts = holding_.layers.begin == 0 && !whole_ring() && at_once_ > 1;
  const std::size_t chunk = cuts ? limits::kPipelinedChunk : limits::kPrefillChunk;
  most.prompt_rows = std::min(room, cost_.prompt_rows(beside, chunk));
  return most;
}

void Hop::pump() {
  if (step_in_flight_ || !batcher_) return;
  std::optional<engine::BatchPlan> plan = batcher_->next(step_limits());
  if (!plan.has_value()) return;
  Flight flight;
  flight.submitted = env_.clock.now();
  flight.parts = plan->parts;
  flight.tokens = plan->tokens;
  std::vector<engine::SampleRows> samples;
  flying_.clear();
  for (const engine::BatchPart& part : flight.parts) {
    Sequence& sequence = sequences_.at(part.sequence);
    flying_.push_back(part.sequence);
    const std::size_t prompt_rows = sequence.prompt_rows(
        static_cast<std::uint32_t>(part.first_position), static_cast<std::size_t>(part.rows));
    sequence.prompt_waiting -= prompt_rows;
    flight.decode_rows += static_cast<std::size_t>(part.rows) - prompt_rows;
    samples.push_back(sample_rows(part, sequence, flight.wanted));
  }
  std::sort(flying_.begin(), flying_.end());
  step_in_flight_ = true;
  Result<engine::StepJob> job = engine::make_step_job(std::move(*plan), *pages_, samples);
  if (!job.ok()) return step_done(flight, job.error());
  compute_.submit(std::move(*job), [this, alive = std::weak_ptr<bool>(alive_),
                                    flight = std::move(flight)](Result<engine::StepOutput> output) {
    if (!alive.expired()) step_done(flight, std::move(output));
  });
}

void Hop::step_done(const Flight& flight, Result<engine::StepOutput> output) {
  if (output.ok() && output->residual_out.empty() && output->sampled.size() != flight.wanted.size())
    output = Error(Code::kInternal, fmt::format("{} tokens sampled, {} wanted",
                                                output->sampled.size(), flight.wanted.size()));
  // The next stage waits for this: everything else is done while the rows are on their way. Until
  // then the sequences count as in flight, so that one that fails stays to be accounted for.
  if (output.ok()) pass_on(flight, *output);
  step_in_flight_ = false;
  flying_.clear();
  account(flight, output);
  release_closing(flight);
  if (!output.ok()) {
    std::vector<SequenceId> all;
    for (const engine::BatchPart& part : flight.parts) all.push_back(part.sequence);
    env_.events.warn("step.failed",
                     {{"sequences", std::to_string(all.size())}, {"why", output.error().message}});
    // The fault may be one sequence's; the others were merely in its batch and may run again.
    Error why = output.error();
    why.retryable = true;
    fail(all, why);
    return pump();
  }
  if (!whole_ring()) return pump();
  // The tokens come back on the next turn of the loop: these rows and those that waited meanwhile
  // make one batch, and not two that take turns for ever.
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_)] {
    if (!alive.expired()) pump();
  });
}

// What the step gives of the sequences that go on: to the next stage, or tokens.
void Hop::pass_on(const Flight& flight, const engine::StepOutput& output) {
  std::vector<SequenceId> broken;
  for (std::size_t s = 0; s < flight.parts.size(); ++s)
    if (output.non_finite[s] != 0) broken.push_back(flight.parts[s].sequence);
  if (!broken.empty())
    fail(broken, Error(Code::kInternal,
                       fmt::format("non_finite: layers {} gave numbers that are not finite",
                                   holding_.layers.to_string())));
  depart(flight);
  if (output.residual_out.empty())
    return_tokens(flight, output);
  else
    forward(flight, output);
}

// What the step leaves behind whoever of its sequences has ended meanwhile: measurements, pages
// with known content, rows to acknowledge.
void Hop::account(const Flight& flight, const Result<engine::StepOutput>& output) {
  std::set<PeerId> senders;
  for (std::size_t s = 0; s < flight.parts.size(); ++s) {
    const engine::BatchPart& part = flight.parts[s];
    const auto found = sequences_.find(part.sequence);
    MESH_CHECK(found != sequences_.end(), "a sequence ended while its rows were computed");
    Sequence& sequence = found->second;
    const auto rows = static_cast<std::size_t>(part.rows);
    if (!sequence.first()) {
      senders.insert(sequence.before());
      rows_done(sequence,
                sequence.prompt_rows(static_cast<std::uint32_t>(part.first_position), rows));
    }
    if (!output.ok()) continue;
    rows_computed_ += rows;
    if (output->non_finite[s] == 0)
      pages_->computed(
          part.sequence,
          std::span(flight.tokens).subspan(static_cast<std::size_t>(part.offset), rows));
  }
  for (PeerId sender : senders) tell_done(sender);
  if (!output.ok()) return;
  const std::size_t prompt_rows = flight.tokens.size() - flight.decode_rows;
  metrics_.step(flight.decode_rows, prompt_rows, output->compute);
  cost_.observe(flight.decode_rows, prompt_rows, output->compute);
  if (holding_.layers.begin != 0 || prompt_rows != 0) return;
  // The device alone does not bound the rate: a small model spends as long between its steps.
  const Duration took = output->compute == Duration::zero()
                            ? Duration::zero()
                            : std::max(output->compute, env_.clock.now() - flight.submitted);
  pacer_.step(flight.decode_rows, took);
}

// At stage 0: the decode rows of the step are one micro-batch from now on.
void Hop::depart(const Flight& flight) {
  if (holding_.layers.begin != 0) return;
  std::vector<SequenceId> batch;
  for (const engine::BatchPart& part : flight.parts)
    if (part.decode && !sequences_.at(part.sequence).closing) batch.push_back(part.sequence);
  if (batch.empty()) return;
  pacer_.sent(batch, env_.clock.now());
  micro_batches_max_ = std::max(micro_batches_max_, pacer_.in_flight());
}

void Hop::release_closing(const Flight& flight) {
  for (const engine::BatchPart& part : flight.parts) {
    const auto found = sequences_.find(part.sequence);
    if (found != sequences_.end() && found->second.closing) end(part.sequence);
  }
}

void Hop::forward(const Flight& flight, const engine::StepOutput& output) {
  // One micro-batch per route: its rows share the next stage and the 8-byte handle.
  std::map<RouteHandle, std::vector<const engine::BatchPart*>> routes;
  for (const engine::BatchPart& part : flight.parts) {
    const Sequence& sequence = sequences_.at(part.sequence);
    if (!sequence.closing) routes[sequence.route].push_back(&part);
  }
  for (const auto& [handle, parts] : routes) send_micro_batch(handle, flight, parts, output);
}

void Hop::send_micro_batch(RouteHandle route, const Flight& flight,
                           const std::vector<const engine::BatchPart*>& parts,
                           const engine::StepOutput& output) {
  wire::StepMessage message;
  message.route = route;
  std::vector<SequenceId> carried;
  std::size_t prompt_rows = 0;
  const PeerId next = sequences_.at(parts.front()->sequence).next();
  for (const engine::BatchPart* part : parts) {
    carried.push_back(part->sequence);
    prompt_rows += sequences_.at(part->sequence)
                       .prompt_rows(static_cast<std::uint32_t>(part->first_position),
                                    static_cast<std::size_t>(part->rows));
    for (std::int32_t i = 0; i < part->rows; ++i)
      message.rows.push_back({part->sequence, static_cast<std::uint32_t>(part->first_position + i),
                              flight.tokens[static_cast<std::size_t>(part->offset + i)]});
  }
  message.hidden = Buffer(message.rows.size() * row_bytes_);
  std::byte* at = message.hidden.data();
  for (const engine::BatchPart* part : parts) {
    const std::size_t bytes = static_cast<std::size_t>(part->rows) * row_bytes_;
    std::memcpy(at,
                output.residual_out.data() + static_cast<std::size_t>(part->offset) * row_bytes_,
                bytes);
    at += bytes;
  }
  const Result<void> sent = env_.transport.send(next, wire::encode(message));
  if (sent.ok()) return window_.sent(next, prompt_rows);
  fail(carried,
       Error(Code::kUnavailable, fmt::format("the next stage, node {}, cannot be reached: {}",
                                             next.short_name(), sent.error().message)));
}

}  // namespace mesh::pipeline
