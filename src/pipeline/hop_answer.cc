// What the last stage samples and whom it tells.

#include <fmt/format.h>

#include <utility>

#include "base/limits.h"
#include "pipeline/hop.h"

namespace mesh::pipeline {
namespace {

// Rows of one message: far below the bound of a frame's header whatever they carry.
constexpr std::size_t kMessageBytes = limits::kFrameHeaderBytes / 2;
constexpr std::size_t kRowBytes = 48, kTopBytes = 16;

// Sends the rows in as many messages as they need.
template <typename Message>
Result<void> send_rows(env::Transport& transport, PeerId to, std::vector<wire::TokenRow> rows) {
  Message message;
  std::size_t bytes = 0;
  for (wire::TokenRow& row : rows) {
    const std::size_t more = kRowBytes + kTopBytes * row.top.size();
    if (bytes + more > kMessageBytes && !message.rows.empty()) {
      MESH_RETURN_IF_ERROR(transport.send(to, wire::encode(message)));
      message.rows.clear();
      bytes = 0;
    }
    bytes += more;
    message.rows.push_back(std::move(row));
  }
  if (message.rows.empty()) return {};
  return transport.send(to, wire::encode(message));
}

}  // namespace

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
  std::map<PeerId, std::vector<wire::TokenRow>> scores, tokens;
  for (std::size_t i = 0; i < flight.wanted.size(); ++i) {
    const Wanted& wanted = flight.wanted[i];
    const auto found = sequences_.find(wanted.sequence);
    if (found == sequences_.end()) continue;
    Sequence& sequence = found->second;
    const SampledToken& sampled = output.sampled[i];
    wire::TokenRow row;
    row.sequence = wanted.sequence;
    row.position = wanted.position;
    row.token = sampled.token;
    if (wanted.given) {
      row.logprob = sampled.logprob;
      row.top = sampled.top;
      scores[sequence.entry].push_back(std::move(row));
      continue;
    }
    row.finish = finish_of(sequence, wanted.position, sampled.token);
    if (sequence.history) ++sequence.history->output[sampled.token];
    const PeerId first = sequence.stages.front().node;
    if (first != sequence.entry) tokens[first].push_back(row);
    row.logprob = sampled.logprob;
    row.top = sampled.top;
    tokens[sequence.entry].push_back(std::move(row));
  }
  const auto send = [&](PeerId peer, auto&& send_all, const std::vector<wire::TokenRow>& rows) {
    const Result<void> sent = send_all(env_.transport, peer, rows);
    if (sent.ok()) return;
    // Without these rows the sequences would stand still until their deadline.
    std::vector<SequenceId> stuck;
    for (const wire::TokenRow& row : rows) stuck.push_back(row.sequence);
    fail(stuck, Error(Code::kUnavailable, fmt::format("a token cannot be returned to node {}: {}",
                                                      peer.short_name(), sent.error().message)));
  };
  for (const auto& [peer, rows] : scores) send(peer, send_rows<wire::Scores>, rows);
  for (const auto& [peer, rows] : tokens) send(peer, send_rows<wire::Tokens>, rows);
}

}  // namespace mesh::pipeline
