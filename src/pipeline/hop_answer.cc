// What the last stage samples and whom it tells.

#include <fmt/format.h>

#include <utility>

#include "base/limits.h"
#include "pipeline/hop.h"

namespace mesh::pipeline {

// The rows of a part that give something: the last one known at the start and every generated one
// a token; of prompt rows, where that is wanted, the log-probability of the token that follows.
engine::SampleRows Hop::sample_rows(const engine::BatchPart& part, const Sequence& sequence,
                                    std::vector<Wanted>& wanted) const {
  engine::SampleRows out;
  if (!sequence.last()) return out;
  const auto add = [&](std::int32_t row, bool given) {
    engine::SampleSpec spec;
    spec.position = static_cast<std::uint32_t>(part.first_position + row + 1);
    spec.params = sequence.sampling;
    if (given) {
      spec.given = sequence.prompt_ids[spec.position];
    } else {
      spec.drawn = spec.position - sequence.prompt_tokens;
      spec.history = sequence.history;
    }
    wanted.push_back({part.sequence, spec.position, given});
    out.rows.emplace_back(row, std::move(spec));
  };
  if (!sequence.prompt_ids.empty())
    for (std::int32_t row = 0; row < part.rows; ++row)
      if (static_cast<std::uint32_t>(part.first_position + row + 1) < sequence.prompt_tokens)
        add(row, true);
  if (static_cast<std::uint32_t>(part.first_position + part.rows) >= sequence.prefill_end)
    add(part.rows - 1, false);
  return out;
}

// Of the token at `position`: the answer starts behind the prompt, what was replayed included.
wire::Finish Hop::finish_of(const Sequence& sequence, std::uint32_t position, TokenId token) {
  const SamplingParams& params = *sequence.sampling;
  const std::uint32_t drawn = position - sequence.prompt_tokens;
  const bool stop =
      drawn >= params.min_tokens &&
      std::find(params.stop_ids.begin(), params.stop_ids.end(), token) != params.stop_ids.end();
  if (stop) return wire::Finish::kStop;
  return drawn + 1 >= sequence.new_tokens_max ? wire::Finish::kLength : wire::Finish::kNone;
}

void Hop::return_tokens(const Flight& flight, const engine::StepOutput& output) {
  std::map<PeerId, wire::Scores> scores;
  std::map<PeerId, wire::Tokens> tokens;
  for (std::size_t i = 0; i < flight.wanted.size(); ++i) {
    const Wanted& wanted = flight.wanted[i];
    Sequence& sequence = sequences_.at(wanted.sequence);
    if (sequence.closing) continue;
    const SampledToken& sampled = output.sampled[i];
    wire::TokenRow row;
    row.sequence = wanted.sequence;
    row.position = wanted.position;
    row.token = sampled.token;
    if (wanted.given) {
      row.logprob = sampled.logprob;
      row.top = sampled.top;
      scores[sequence.entry].rows.push_back(std::move(row));
      continue;
    }
    row.finish = finish_of(sequence, wanted.position, sampled.token);
    if (sequence.history) ++sequence.history->output[sampled.token];
    const PeerId first = sequence.stages.front().node;
    if (first != sequence.entry) tokens[first].rows.push_back(row);
    row.logprob = sampled.logprob;
    row.top = sampled.top;
    tokens[sequence.entry].rows.push_back(std::move(row));
  }
  // Without these rows the sequences would stand still until their deadline.
  const auto send = [&](PeerId peer, const auto& message) {
    const Result<void> sent = env_.transport.send(peer, wire::encode(message));
    if (sent.ok()) return;
    std::vector<SequenceId> stuck;
    for (const wire::TokenRow& row : message.rows) stuck.push_back(row.sequence);
    fail(stuck, Error(Code::kUnavailable, fmt::format("a token cannot be returned to node {}: {}",
                                                      peer.short_name(), sent.error().message)));
  };
  for (const auto& [peer, message] : scores) send(peer, message);
  for (const auto& [peer, message] : tokens) send(peer, message);
}

}  // namespace mesh::pipeline
