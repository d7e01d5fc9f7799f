// What the sequences of a stage may still use: pages, credit and the next stage's room for prompt
// rows.

#include <fmt/format.h>

#include <utility>

#include "base/limits.h"
#include "pipeline/hop.h"

namespace mesh::pipeline {

void Hop::on_extend(PeerId from, const wire::Extend& extend) {
  Sequence* sequence = owned(from, extend.sequence);
  if (sequence == nullptr) return;
  const std::uint32_t context = compute_.shape().context;
  if (extend.positions_max > context) {
    fail({extend.sequence},
         Error(Code::kInvalidArgument, fmt::format("{} positions wanted, the model's context is {}",
                                                   extend.positions_max, context)));
    return pump();
  }
  std::optional<Error> refused;
  if (const Result<void> grown = grow(extend.sequence, *sequence, extend.positions_max);
      !grown.ok())
    refused = grown.error();
  reply(from, {extend.sequence, refused, 0, sequence->positions_max});
  resume(extend.sequence, *sequence);
  pump();
}

void Hop::on_credit(PeerId from, const wire::Credit& credit) {
  Sequence* sequence = owned(from, credit.sequence);
  if (sequence == nullptr) return;
  if (!sequence->first()) {
    fail({credit.sequence}, Error(Code::kCorrupt, "credit arrived that this stage does not use"));
  } else {
    sequence->credit = std::max(sequence->credit, credit.positions);
    resume(credit.sequence, *sequence);
  }
  pump();
}

// Reserves pages for positions [0, positions). A later stage meets rows behind its reservation only
// when the entry's EXTEND to it is slower than the one to stage 0, and then needs no second answer.
Result<void> Hop::grow(SequenceId id, Sequence& sequence, std::uint32_t positions) {
  if (positions <= sequence.positions_max) return {};
  if (Result<void> grown = pages_->extend(id, positions); !grown.ok()) {
    Error why = grown.error();
    why.retryable = true;
    return why;
  }
  sequence.positions_max = positions;
  return {};
}

// The token of the next position: its row runs now or once credit and pages allow it.
void Hop::run_or_park(SequenceId id, Sequence& sequence, TokenId token) {
  if (sequence.may_run()) return enqueue(id, sequence, {token}, Buffer());
  if (sequence.next_position >= sequence.credit) metrics_.held_by_reader.add();
  sequence.parked = token;
  ++parked_;
}

void Hop::resume(SequenceId id, Sequence& sequence) {
  if (!sequence.parked || !sequence.may_run()) return;
  const TokenId token = *sequence.parked;
  sequence.parked.reset();
  --parked_;
  enqueue(id, sequence, {token}, Buffer());
}

void Hop::on_rows_done(PeerId from, const wire::RowsDone& done) {
  window_.acknowledged(from, done.rows);
  pump();
}

// Prompt rows of this sequence were computed or dropped.
void Hop::rows_done(Sequence& sequence, std::size_t rows) {
  rows = std::min(rows, sequence.prompt_due);
  sequence.prompt_due -= rows;
  window_.done(sequence.before(), rows);
}

// Rows of a sequence that has ended here: the stage before still counts them. Where it is not known
// any more which of them belong to the prompt, all do: too many acknowledged do less harm than too
// few.
void Hop::acknowledge_late(PeerId from, const wire::StepMessage& step, std::size_t begin,
                           std::size_t end) {
  std::uint32_t prefill_end = limits::kContext;
  const SequenceId id = step.rows[begin].sequence;
  if (const auto closing = sequences_.find(id); closing != sequences_.end()) {
    if (closing->second.first() || closing->second.before() != from) return;
    prefill_end = closing->second.prefill_end;
  } else if (const auto closed = closed_.find(id); closed != closed_.end()) {
    prefill_end = closed->second;
  }
  std::size_t rows = 0;
  for (std::size_t row = begin; row < end; ++row)
    if (step.rows[row].position < prefill_end) ++rows;
  if (rows == 0) return;
  window_.arrived(from, rows);
  window_.done(from, rows);
  tell_done(from);
}

void Hop::tell_done(PeerId to) {
  const std::uint32_t rows = window_.tell(to);
  // A lost link takes the counts of both ends with it.
  if (rows > 0) (void)env_.transport.send(to, wire::encode(wire::RowsDone{rows})).ok();
}

void Hop::remember_closed(SequenceId id, const Sequence& sequence) {
  if (closed_.insert_or_assign(id, sequence.prefill_end).second) closed_order_.push_back(id);
  if (closed_order_.size() <= limits::kClosedSequences) return;
  closed_.erase(closed_order_.front());
  closed_order_.pop_front();
}

}  // namespace mesh::pipeline
