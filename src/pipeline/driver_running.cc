// A sequence while it runs: its tokens and scores, the credit it is given and the pages it grows
// by.

#include <algorithm>
#include <utility>

#include "pipeline/driver.h"

namespace mesh::pipeline {

using Kind = AdmissionInput::Kind;

// A row at position p gives the token of position p + 1, so the next row is that of the last known
// token.
void Driver::give_credit(SequenceId handle) {
  Request& request = requests_.at(handle);
  const std::uint32_t next = request.known() - 1;
  const bool fresh = request.credit == 0;
  if (!fresh &&
      (request.credit >= request.end() || request.credit > next + limits::kCreditWindow / 2))
    return;
  if (!fresh && !request.reading) {
    if (request.known() > request.credit && !request.parked) {
      request.parked = env_.clock.now();
      reader_behind_total_.add();
    }
    return;
  }
  request.credit = request.end() - request.known() <= limits::kCreditWindow
                       ? request.end()
                       : request.known() + limits::kCreditWindow;
  request.parked.reset();
  send(request.route.stages.front().node, wire::encode(wire::Credit{request.wire, request.credit}),
       handle);
}

void Driver::set_reading(SequenceId handle, bool reading) {
  const auto found = requests_.find(handle);
  if (found == requests_.end() || std::exchange(found->second.reading, reading) == reading) return;
  switch (found->second.phase) {
    case Phase::kStarting:
    case Phase::kOpening:
      break;
    case Phase::kWaiting:
      if (!reading) set_aside(handle);
      break;
    case Phase::kReleased:
      if (!reading) break;
      found->second.phase = Phase::kWaiting;
      advise({Kind::kBack, handle});
      break;
    case Phase::kRunning:
      give_credit(handle);
      break;
  }
}

void Driver::extend_if_due(SequenceId handle) {
  Request& request = requests_.at(handle);
  if (request.positions_max >= request.end() ||
      request.known() + limits::kExtendAhead < request.positions_max)
    return;
  // The last one must have been granted.
  for (const StageState& stage : request.stages)
    if (stage.granted < request.positions_max) return;
  request.positions_max = request.end() - request.positions_max <= limits::kReserveAhead
                              ? request.end()
                              : request.positions_max + limits::kReserveAhead;
  extend(handle);
}

// Asks every stage that has not granted it and is not being asked.
void Driver::extend(SequenceId handle) {
  const auto found = requests_.find(handle);
  if (found == requests_.end() || found->second.phase != Phase::kRunning) return;
  Request& request = found->second;
  const std::vector<wire::StageAssignment> route = request.route.stages;
  const wire::Extend message{request.wire, request.positions_max};
  for (std::size_t i = 0; i < route.size(); ++i) {
    StageState& stage = request.stages[i];
    if (stage.granted >= request.positions_max || stage.asked) continue;
    stage.asked = env_.clock.now();
    if (!send(route[i].node, wire::encode(message), handle)) return;
  }
}

void Driver::extended(SequenceId handle, Request& request, std::size_t stage,
                      const wire::OpenReply& reply) {
  const PeerId node = request.route.stages[stage].node;
  request.stages[stage].asked.reset();
  if (!reply.refused.has_value()) {
    if (reply.positions_max < request.positions_max)
      return fail(handle, Error(Code::kCorrupt,
                                fmt::format("node {} granted {} positions of {} without a reason",
                                            node.short_name(), reply.positions_max,
                                            request.positions_max)));
    request.stages[stage].granted = request.positions_max;
    const auto lacks = [&](const StageState& one) { return one.granted < request.positions_max; };
    if (std::any_of(request.stages.begin(), request.stages.end(), lacks)) return;
    advise({Kind::kExtended, handle});
    if (const auto still = requests_.find(handle);
        still != requests_.end() && still->second.phase == Phase::kRunning)
      extend_if_due(handle);
    return;
  }
  const Error why = reply.refused->with_context(fmt::format("node {} refused", node.short_name()));
  if (why.code != Code::kResourceExhausted) return fail(handle, why);
  request.refused = why;
  AdmissionInput input{Kind::kExtendRefused, handle};
  for (const auto& [other, candidate] : requests_) {
    if (!candidate.open()) continue;
    const auto& route = candidate.route.stages;
    if (std::any_of(route.begin(), route.end(), [&](const auto& s) { return s.node == node; }))
      input.sharing.push_back(other);
  }
  advise(std::move(input));
}

void Driver::on_tokens(PeerId from, const wire::Tokens& tokens) {
  for (const wire::TokenRow& row : tokens.rows)
    if (const auto found = of_wire(row.sequence); found != requests_.end())
      accept_token(found->first, row, from);
}

void Driver::accept_token(SequenceId handle, const wire::TokenRow& row, PeerId from) {
  Request& request = requests_.at(handle);
  if (request.phase != Phase::kRunning || from != request.route.stages.back().node) return;
  if (row.position != request.known())
    return fail(handle, Error(Code::kCorrupt,
                              fmt::format("node {} sent a token for position {} where {} was due",
                                          from.short_name(), row.position, request.known())));
  if (request.known() >= request.end())
    return fail(handle, Error(Code::kCorrupt,
                              fmt::format("node {} sent more than the {} tokens asked for",
                                          from.short_name(), request.params.new_tokens_max)));
  request.emitted.push_back(row.token);
  ++tokens_in_window_;
  const SequenceId life = request.wire;
  // The sink may cancel from within token(); look again afterwards.
  const std::shared_ptr<TokenSink> sink = request.sink;
  if (row.finish == wire::Finish::kStop)
    sink->stop_token(row.token);
  else
    sink->token({row.token, row.logprob, row.top});
  if (!handles_.contains(life)) return;
  if (row.finish != wire::Finish::kNone) return finish(handle, row.finish);
  give_credit(handle);
  if (handles_.contains(life)) extend_if_due(handle);
}

void Driver::on_scores(PeerId from, const wire::Scores& scores) {
  // Rows of several sequences may come mixed; each sink gets its own in one piece.
  std::map<SequenceId, std::vector<SampledToken>> parts;  // by wire id
  for (const wire::TokenRow& row : scores.rows) {
    const auto found = of_wire(row.sequence);
    if (found == requests_.end()) continue;
    Request& request = found->second;
    if (request.phase != Phase::kRunning || from != request.route.stages.back().node) continue;
    if (row.position != request.next_score || row.position >= request.prompt_tokens() ||
        row.token != request.params.prompt[row.position]) {
      fail(found->first,
           Error(Code::kCorrupt, fmt::format("node {} sent a wrong score for position {}",
                                             from.short_name(), row.position)));
      continue;
    }
    ++request.next_score;
    if (row.position < request.scored) continue;  // told in an earlier life
    ++request.scored;
    parts[row.sequence].push_back({row.token, row.logprob, row.top});
  }
  for (auto& [life, part] : parts) {
    const auto found = of_wire(life);
    if (found == requests_.end()) continue;
    const std::shared_ptr<TokenSink> sink = found->second.sink;
    sink->prompt_scores(std::move(part));
  }
}

}  // namespace mesh::pipeline
