#include "pipeline/driver.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace mesh::pipeline {

Driver::Driver(env::Env& env, std::function<Result<RouteChoice>()> choose_route)
    : env_(env), choose_route_(std::move(choose_route)), window_start_(env.clock.now()) {}

SequenceId Driver::start(GenerateParams params, std::shared_ptr<TokenSink> sink) {
  MESH_CHECK(!params.prompt.empty() && params.new_tokens_max > 0, "an empty generation");
  SequenceId sequence{env_.random.next_u64()};
  while (requests_.contains(sequence)) sequence = SequenceId{env_.random.next_u64()};
  Request& request = requests_[sequence];
  request.params = std::move(params);
  request.sink = std::move(sink);
  request.started = env_.clock.now();
  request.deadline = request.started + limits::kOpenDeadline;
  // On a later turn, so that a caller never sees its sink called from within start().
  env_.loop.post([this, sequence, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    const auto found = requests_.find(sequence);
    if (found != requests_.end()) open_route(sequence, found->second);
  });
  return sequence;
}

void Driver::open_route(SequenceId sequence, Request& request) {
  Result<RouteChoice> route = choose_route_();
  if (!route.ok()) return fail(sequence, route.error());
  request.route = *route;
  request.phase = Phase::kOpening;
  request.opened.assign(request.route.stages.size(), false);
  wire::Open open;
  open.sequence = sequence;
  open.entry = env_.transport.self();
  open.epoch = request.route.epoch;
  open.fingerprint = request.route.fingerprint;
  open.numeric_class = request.route.numeric_class;
  open.stages = request.route.stages;
  open.prompt_tokens = static_cast<std::uint32_t>(request.params.prompt.size());
  open.new_tokens_max = request.params.new_tokens_max;
  open.positions_max = open.prompt_tokens + open.new_tokens_max;
  open.sampling = request.params.sampling;
  const std::vector<wire::StageAssignment> stages = request.route.stages;
  for (const wire::StageAssignment& stage : stages) {
    if (!requests_.contains(sequence)) return;  // a send failed and ended it
    send(stage.node, wire::encode(open), sequence);
  }
}

void Driver::on_open_reply(PeerId from, const wire::OpenReply& reply) {
  const auto found = requests_.find(reply.sequence);
  if (found == requests_.end() || found->second.phase != Phase::kOpening) return;
  Request& request = found->second;
  const std::vector<wire::StageAssignment>& stages = request.route.stages;
  const auto stage =
      std::find_if(stages.begin(), stages.end(), [&](const auto& one) { return one.node == from; });
  if (stage == stages.end()) return;  // not asked
  if (reply.refused.has_value())
    return fail(reply.sequence,
                reply.refused->with_context(fmt::format("node {} refused", from.short_name())));
  request.opened[static_cast<std::size_t>(stage - stages.begin())] = true;
  if (std::find(request.opened.begin(), request.opened.end(), false) == request.opened.end())
    send_prompt(reply.sequence, request);
}

void Driver::send_prompt(SequenceId sequence, Request& request) {
  request.phase = Phase::kRunning;
  request.deadline = request.started + limits::kRequestDeadline;
  const PeerId first = request.route.stages.front().node;
  const std::shared_ptr<TokenSink> sink = request.sink;
  send(first, wire::encode(wire::Prompt{sequence, request.params.prompt}), sequence);
  if (requests_.contains(sequence)) sink->admitted();
}

void Driver::on_tokens(PeerId from, const wire::Tokens& tokens) {
  for (const wire::TokenRow& row : tokens.rows)
    if (requests_.contains(row.sequence)) accept_token(row.sequence, row, from);
}

void Driver::accept_token(SequenceId sequence, const wire::TokenRow& row, PeerId from) {
  Request& request = requests_.at(sequence);
  if (request.phase != Phase::kRunning || from != request.route.stages.back().node) return;
  const std::size_t expected = request.params.prompt.size() + request.emitted.size();
  if (row.position != expected)
    return fail(sequence, Error(Code::kCorrupt,
                                fmt::format("node {} sent a token for position {} where {} was due",
                                            from.short_name(), row.position, expected)));
  if (request.emitted.size() >= request.params.new_tokens_max)
    return fail(sequence, Error(Code::kCorrupt,
                                fmt::format("node {} sent more than the {} tokens asked for",
                                            from.short_name(), request.params.new_tokens_max)));
  request.emitted.push_back(row.token);
  ++tokens_in_window_;
  // The sink may cancel from within token(); look again afterwards.
  if (row.finish != wire::Finish::kStop) {
    const std::shared_ptr<TokenSink> sink = request.sink;
    sink->token({row.token, row.logprob, row.top});
  } else {
    const std::shared_ptr<TokenSink> sink = request.sink;
    sink->stop_token(row.token);
  }
  if (row.finish != wire::Finish::kNone && requests_.contains(sequence))
    finish(sequence, row.finish);
}

void Driver::finish(SequenceId sequence, wire::Finish reason) {
  const auto node = requests_.extract(sequence);
  close_stages(sequence, node.mapped());
  node.mapped().sink->finished(reason);
}

void Driver::fail(SequenceId sequence, const Error& why) {
  const auto node = requests_.extract(sequence);
  if (node.empty()) return;
  close_stages(sequence, node.mapped());
  env_.events.warn("request.failed", {{"sequence", to_hex(sequence.value)}, {"why", why.message}});
  node.mapped().sink->failed(why);
}

void Driver::cancel(SequenceId sequence) {
  const auto node = requests_.extract(sequence);
  if (!node.empty()) close_stages(sequence, node.mapped());
}

void Driver::set_reading(SequenceId, bool) {}

std::size_t Driver::waiting() const {
  return static_cast<std::size_t>(
      std::count_if(requests_.begin(), requests_.end(),
                    [](const auto& entry) { return entry.second.phase != Phase::kRunning; }));
}

// Best effort: a stage that cannot be reached frees its pages when it loses the link to this entry.
void Driver::close_stages(SequenceId sequence, const Request& request) {
  for (const wire::StageAssignment& stage : request.route.stages) {
    const Result<void> sent =
        env_.transport.send(stage.node, wire::encode(wire::Close{{sequence}}));
    if (!sent.ok() && sent.error().code != Code::kNotFound)
      env_.events.warn("close.unsent",
                       {{"peer", stage.node.short_name()}, {"why", sent.error().message}});
  }
}

void Driver::send(PeerId to, env::Frame frame, SequenceId sequence) {
  const Result<void> sent = env_.transport.send(to, std::move(frame));
  if (sent.ok()) return;
  Error why = sent.error().with_context(fmt::format("node {} of the route", to.short_name()));
  if (why.code == Code::kNotFound) why.code = Code::kUnavailable;
  fail(sequence, why);
}

void Driver::on_fail(PeerId from, const wire::Fail& message) {
  for (SequenceId sequence : message.sequences) {
    const auto found = requests_.find(sequence);
    if (found == requests_.end()) continue;
    const auto& stages = found->second.route.stages;
    const bool on_route =
        std::any_of(stages.begin(), stages.end(), [&](const auto& s) { return s.node == from; });
    if (on_route) fail(sequence, message.why);
  }
}

void Driver::on_peer_down(PeerId peer, const Error& why) {
  std::vector<SequenceId> hit;
  std::string layers;
  for (const auto& [sequence, request] : requests_)
    for (const wire::StageAssignment& stage : request.route.stages)
      if (stage.node == peer) {
        hit.push_back(sequence);
        layers = stage.layers.to_string();
      }
  for (SequenceId sequence : hit)
    fail(sequence, Error(Code::kUnavailable,
                         fmt::format("node {} with layers {} was lost during the request: {}",
                                     peer.short_name(), layers, why.message)));
}

void Driver::tick(Instant now) {
  std::vector<SequenceId> late;
  for (const auto& [sequence, request] : requests_)
    if (now >= request.deadline) late.push_back(sequence);
  for (SequenceId sequence : late) {
    const auto found = requests_.find(sequence);
    if (found == requests_.end()) continue;  // a sink cancelled it meanwhile
    const Request& request = found->second;
    std::string what = "the request did not finish in time";
    if (request.phase != Phase::kRunning) {
      what = "no answer to OPEN in time from";
      for (std::size_t i = 0; i < request.opened.size(); ++i)
        if (!request.opened[i]) what += " node " + request.route.stages[i].node.short_name();
    }
    fail(sequence, Error(Code::kDeadlineExceeded, what));
  }
  const Duration elapsed = now - window_start_;
  if (elapsed >= seconds(1)) {
    tokens_per_s_ = static_cast<double>(tokens_in_window_) / to_seconds(elapsed);
    tokens_in_window_ = 0;
    window_start_ = now;
  }
}

}  // namespace mesh::pipeline
