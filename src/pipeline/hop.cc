#include "pipeline/hop.h"

#include <fmt/format.h>

#include <utility>

#include "base/limits.h"

namespace mesh::pipeline {

Hop::Hop(env::Env& env, engine::Compute& compute)
    : env_(env), compute_(compute), row_bytes_(compute.shape().row_bytes), metrics_(env.metrics) {
  env.metrics.before_render([this, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    if (pages_) metrics_.pages(pages_->used(), pages_->cached(), pages_->free_pages());
    metrics_.parked_sequences.set(static_cast<double>(parked_));
    metrics_.micro_batches_in_flight.set(static_cast<double>(pacer_.in_flight()));
  });
}

void Hop::hold(const Holding& holding) {
  MESH_CHECK(idle(), "hold() with {} sequences open", sequences_.size());
  holding_ = holding;
  pages_ = std::make_unique<kvcache::PageTables>(holding.pages);
  cost_ = engine::StepCost();
  pacer_ = RingPacer();
  engine::BatcherOptions options;
  options.row_bytes = holding.layers.begin == 0 ? 0 : row_bytes_;
  // A step's rows may all go on in one frame: 16 bytes and one residual row each.
  options.batch_rows = std::min(limits::kBatchRows, limits::kFramePayloadBytes / (row_bytes_ + 16));
  batcher_ = std::make_unique<engine::Batcher>(options);
}

double Hop::mean_decode_batch() const {
  const metrics::Histogram& rows = metrics_.decode_batch_rows;
  return rows.count() == 0 ? 0 : rows.sum() / static_cast<double>(rows.count());
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

// The first row of a sequence: everything before it is cached on every stage.
Result<void> Hop::start_at(SequenceId id, Sequence& sequence, std::uint32_t position) {
  if (position % kvcache::kPagePositions != 0 || position > sequence.cached)
    return Error(Code::kCorrupt, fmt::format("the first row is for position {}, {} are cached",
                                             position, sequence.cached));
  if (Result<void> begun = pages_->begin(id, position); !begun.ok()) {
    Error why = begun.error();
    why.retryable = true;
    return why;
  }
  sequence.started = true;
  sequence.next_position = position;
  metrics_.prefix_queries.add(sequence.prefill_end);
  metrics_.prefix_hits.add(position);
  prefix_hits_ += position;
  return {};
}

void Hop::on_prompt(PeerId from, const wire::Prompt& prompt) {
  Sequence* sequence = owned(from, prompt.sequence);
  if (sequence == nullptr) return;
  Result<void> fits;
  if (!sequence->first() || sequence->started || prompt.first_position >= sequence->prefill_end ||
      prompt.tokens.size() != sequence->prefill_end - prompt.first_position)
    fits = Error(Code::kCorrupt, "a prompt arrived that this stage did not expect");
  if (fits.ok()) fits = check_tokens(prompt.tokens);
  if (fits.ok()) fits = start_at(prompt.sequence, *sequence, prompt.first_position);
  if (fits.ok())
    enqueue(prompt.sequence, *sequence, prompt.tokens, Buffer());
  else
    fail({prompt.sequence}, fits.error());
  pump();
}

Result<void> Hop::check_token(const Sequence& sequence, const wire::TokenRow& row) const {
  if (row.position != sequence.next_position || row.position < sequence.prefill_end)
    return Error(Code::kCorrupt, fmt::format("a token for position {} arrived where {} was due",
                                             row.position, sequence.next_position));
  if (sequence.parked)
    return Error(Code::kCorrupt, fmt::format("a second token for position {}", row.position));
  if (row.position >= sequence.positions_end)
    return Error(Code::kCorrupt, fmt::format("position {} is beyond the {} of the sequence",
                                             row.position, sequence.positions_end));
  return check_tokens({row.token});
}

void Hop::on_tokens(PeerId from, const wire::Tokens& tokens) {
  for (const wire::TokenRow& row : tokens.rows) {
    const auto found = sequences_.find(row.sequence);
    if (found == sequences_.end() || found->second.closing) continue;
    Sequence& sequence = found->second;
    if (!sequence.first() || sequence.stages.back().node != from) continue;
    pacer_.returned(row.sequence, env_.clock.now());
    if (row.finish != wire::Finish::kNone) continue;
    if (const Result<void> fits = check_token(sequence, row); !fits.ok())
      fail({row.sequence}, fits.error());
    else
      run_or_park(row.sequence, sequence, row.token);
  }
  pump();
}

// Rows [begin, end) of a micro-batch: the next ones of this sequence.
Result<void> Hop::check_run(const Sequence& sequence, const wire::StepMessage& step,
                            std::size_t begin, std::size_t end) const {
  if (sequence.route != step.route)
    return Error(Code::kCorrupt, "rows arrived for another route than the sequence has");
  const std::uint32_t first = sequence.started ? sequence.next_position : step.rows[begin].position;
  for (std::size_t row = begin; row < end; ++row) {
    const std::uint64_t due = std::uint64_t{first} + (row - begin);
    const std::uint32_t position = step.rows[row].position;
    if (position != due)
      return Error(Code::kCorrupt,
                   fmt::format("a row for position {} arrived where {} was due", position, due));
    if (position >= sequence.positions_end)
      return Error(Code::kCorrupt, fmt::format("position {} is beyond the {} of the sequence",
                                               position, sequence.positions_end));
  }
  return {};
}

void Hop::on_step(PeerId from, wire::StepMessage step) {
  // Rows of one sequence are consecutive in a micro-batch; each run becomes one entry of the
  // batcher.
  for (std::size_t begin = 0, end_row = 0; begin < step.rows.size(); begin = end_row) {
    const SequenceId id = step.rows[begin].sequence;
    end_row = begin + 1;
    while (end_row < step.rows.size() && step.rows[end_row].sequence == id) ++end_row;
    const auto found = sequences_.find(id);
    if (found == sequences_.end() || found->second.closing) {  // ended meanwhile
      acknowledge_late(from, step, begin, end_row);
      continue;
    }
    Sequence& sequence = found->second;
    // Nobody but the stage before may touch a sequence, not even to end it.
    if (sequence.first() || sequence.before() != from) {
      env_.events.warn("rows.stray", {{"peer", from.short_name()}, {"sequence", to_hex(id.value)}});
      continue;
    }
    const std::uint32_t first = step.rows[begin].position;
    const std::size_t prompt_rows = sequence.prompt_rows(first, end_row - begin);
    sequence.prompt_due += prompt_rows;
    window_.arrived(from, prompt_rows);
    Result<void> fits = check_run(sequence, step, begin, end_row);
    if (fits.ok() && !sequence.started) fits = start_at(id, sequence, first);
    if (fits.ok()) fits = grow(id, sequence, first + static_cast<std::uint32_t>(end_row - begin));
    if (!fits.ok()) {
      fail({id}, fits.error());
      continue;
    }
    std::vector<TokenId> tokens;
    for (std::size_t row = begin; row < end_row; ++row) tokens.push_back(step.rows[row].token);
    enqueue(id, sequence, tokens,
            Buffer::copy_of(
                step.hidden.span().subspan(begin * row_bytes_, (end_row - begin) * row_bytes_)));
  }
  pump();
}

void Hop::enqueue(SequenceId id, Sequence& sequence, const std::vector<TokenId>& tokens,
                  Buffer hidden) {
  const std::uint32_t first = sequence.next_position;
  const Result<void> queued =
      batcher_->add_rows(id, static_cast<std::int32_t>(first), tokens, std::move(hidden),
                         first >= sequence.prefill_end && tokens.size() == 1);
  if (!queued.ok()) return fail({id}, queued.error());
  sequence.next_position += static_cast<std::uint32_t>(tokens.size());
  sequence.prompt_waiting += sequence.prompt_rows(first, tokens.size());
}

}  // namespace mesh::pipeline
