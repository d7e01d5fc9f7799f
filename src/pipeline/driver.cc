#include "pipeline/driver.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace mesh::pipeline {

using Kind = AdmissionInput::Kind;

Driver::Driver(env::Env& env, std::function<Result<RouteChoice>()> choose_route,
               DriverOptions options)
    : env_(env),
      choose_route_(std::move(choose_route)),
      admission_(options.max_waiting),
      preemptions_total_(env.metrics.counter(
          "mesh_preemptions_total", "Sequences that gave their pages up to an older one.")),
      reader_behind_total_(env.metrics.counter(
          "mesh_backpressure_total", "Times that something was held back.", {{"where", "reader"}})),
      queue_time_(env.metrics.histogram("mesh_request_queue_time_seconds",
                                        "From a sequence's start to its reserved pages.",
                                        metrics::latency_bounds())),
      window_start_(env.clock.now()) {
  metrics::Gauge& running =
      env.metrics.gauge("mesh_requests_running", "Sequences of this entry with pages reserved.");
  metrics::Gauge& waiting =
      env.metrics.gauge("mesh_requests_waiting", "Sequences of this entry without.");
  env.metrics.before_render([this, &running, &waiting, alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    running.set(static_cast<double>(this->running()));
    waiting.set(static_cast<double>(this->waiting()));
  });
}

SequenceId Driver::draw_id() {
  for (;;) {
    const SequenceId id{env_.random.next_u64()};
    if (!requests_.contains(id) && !handles_.contains(id)) return id;
  }
}

SequenceId Driver::start(GenerateParams params, std::shared_ptr<TokenSink> sink) {
  MESH_CHECK(!params.prompt.empty() && params.new_tokens_max > 0, "an empty generation");
  const SequenceId handle = draw_id();
  Request& request = requests_[handle];
  request.params = std::move(params);
  request.sink = std::move(sink);
  request.started = env_.clock.now();
  // On a later turn, so that a caller never sees its sink called from within start().
  env_.loop.post([this, handle, alive = std::weak_ptr<bool>(alive_)] {
    if (!alive.expired()) begin(handle);
  });
  return handle;
}

void Driver::begin(SequenceId handle) {
  const auto found = requests_.find(handle);
  if (found == requests_.end()) return;
  if (const Result<RouteChoice> route = choose_route_(); !route.ok())
    return fail(handle, route.error());
  if (found->second.phase == Phase::kStarting) found->second.phase = Phase::kWaiting;
  advise({Kind::kArrived, handle});
  if (const auto still = requests_.find(handle);
      still != requests_.end() && !still->second.reading && still->second.phase == Phase::kWaiting)
    set_aside(handle);
}

// --- waiting room

// What is done for one input may give rise to others: they wait for their turn.
void Driver::advise(AdmissionInput input) {
  inputs_.push_back(std::move(input));
  if (std::exchange(advising_, true)) return;
  while (!inputs_.empty()) {
    const AdmissionInput next = std::move(inputs_.front());
    inputs_.pop_front();
    apply(admission_.step(env_.clock.now(), next));
  }
  advising_ = false;
  arm();
}

void Driver::arm() {
  wake_.cancel();
  const std::optional<Instant> at = admission_.wake_at();
  if (!at) return;
  wake_ = env_.timers.after(std::max(Duration{}, *at - env_.clock.now()),
                            [this] { advise({Kind::kTime}); });
}

void Driver::apply(const AdmissionActions& actions) {
  for (SequenceId handle : actions.preempt) preempt(handle);
  for (SequenceId handle : actions.extend) extend(handle);
  for (SequenceId handle : actions.open) open_route(handle);
  for (SequenceId handle : actions.full)
    fail(handle, Error(Code::kResourceExhausted,
                       fmt::format("{} sequences of this node run and {} wait for free KV pages",
                                   running(), admission_.waiting()),
                       true));
  for (SequenceId handle : actions.give_up)
    fail(handle, no_route_.value_or(Error(Code::kUnavailable, "there was no route", true)));
}

void Driver::preempt(SequenceId handle) {
  const auto found = requests_.find(handle);
  if (found == requests_.end() || !found->second.open()) return;
  Request& request = found->second;
  count_preemption(handle, request);
  close_life(request);
  if (!request.reading) set_aside(handle);
}

void Driver::count_preemption(SequenceId handle, const Request& request) {
  if (request.phase != Phase::kRunning) return;
  ++preemptions_;
  preemptions_total_.add();
  env_.events.info("request.preempted", {{"sequence", to_hex(handle.value)},
                                         {"positions", std::to_string(request.known())}});
}

// A stage could not keep what it had reserved.
void Driver::out_of_pages(SequenceId handle, const Error& why) {
  Request& request = requests_.at(handle);
  count_preemption(handle, request);
  open_refused(handle, request, why);
}

// It holds nothing until its reader is back.
void Driver::set_aside(SequenceId handle) {
  Request& request = requests_.at(handle);
  close_life(request);
  request.phase = Phase::kReleased;
  advise({Kind::kAside, handle});
}

// --- opening

void Driver::open_route(SequenceId handle) {
  const auto found = requests_.find(handle);
  if (found == requests_.end() || found->second.phase != Phase::kWaiting) return;
  Request& request = found->second;
  const Result<RouteChoice> route = choose_route_();
  if (!route.ok()) {
    if (!route.error().retryable) return fail(handle, route.error());
    no_route_ = request.refused = route.error();
    return advise({Kind::kNoRoute, handle});
  }
  request.route = *route;
  request.phase = Phase::kOpening;
  request.stages.assign(request.route.stages.size(), {});
  request.open_deadline = env_.clock.now() + limits::kOpenDeadline;
  request.wire = draw_id();
  handles_[request.wire] = handle;
  wire::Open open = open_message(request);
  const wire::Open last = open;
  open.prompt_ids.clear();
  open.replayed_ids.clear();
  const std::vector<wire::StageAssignment> stages = request.route.stages;
  for (std::size_t i = 0; i < stages.size(); ++i)
    if (!send(stages[i].node, wire::encode(i + 1 < stages.size() ? open : last), handle)) return;
}

// As the last stage gets it.
wire::Open Driver::open_message(Request& request) const {
  const SamplingParams& sampling = request.params.sampling;
  wire::Open open;
  open.sequence = request.wire;
  open.entry = env_.transport.self();
  open.epoch = request.route.epoch;
  open.fingerprint = request.route.fingerprint;
  open.numeric_class = request.route.numeric_class;
  open.stages = request.route.stages;
  open.prompt_tokens = request.prompt_tokens();
  open.replayed = static_cast<std::uint32_t>(request.emitted.size());
  open.new_tokens_max = request.params.new_tokens_max;
  open.positions_max = request.end() - request.known() <= limits::kReserveAhead
                           ? request.end()
                           : request.known() + limits::kReserveAhead;
  open.sampling = sampling;
  open.sampling.prompt_logprobs = request.wants_scores();
  if (open.sampling.prompt_logprobs) {
    open.prompt_ids = request.params.prompt;
  } else {
    if (sampling.repetition_penalty != 1.0f) {
      const std::set<TokenId> distinct(request.params.prompt.begin(), request.params.prompt.end());
      open.prompt_ids.assign(distinct.begin(), distinct.end());
    }
    update_keys(request);
    for (const kvcache::PageKey& key : request.keys)
      open.page_keys.push_back(kvcache::key_bytes(key));
  }
  if (sampling.penalises()) open.replayed_ids = request.emitted;
  request.positions_max = open.positions_max;
  request.next_score = open.sampling.prompt_logprobs ? 1 : request.prompt_tokens();
  return open;
}

// Of whole pages, but not of the last known position: its row gives the next token.
void Driver::update_keys(Request& request) const {
  constexpr std::size_t kPage = kvcache::kPagePositions;
  const std::size_t pages = (request.known() - 1) / kPage;
  const std::vector<TokenId>& prompt = request.params.prompt;
  std::vector<TokenId> page(kPage);
  while (request.keys.size() < pages) {
    const std::size_t begin = request.keys.size() * kPage;
    for (std::size_t i = 0; i < kPage; ++i) {
      const std::size_t at = begin + i;
      page[i] = at < prompt.size() ? prompt[at] : request.emitted[at - prompt.size()];
    }
    request.keys.push_back(
        kvcache::next_key(request.keys.empty() ? kvcache::kRootKey : request.keys.back(), page));
  }
}

std::map<SequenceId, Driver::Request>::iterator Driver::of_wire(SequenceId wire) {
  const auto handle = handles_.find(wire);
  return handle == handles_.end() ? requests_.end() : requests_.find(handle->second);
}

void Driver::on_open_reply(PeerId from, const wire::OpenReply& reply) {
  const auto found = of_wire(reply.sequence);
  if (found == requests_.end()) return;
  Request& request = found->second;
  const std::vector<wire::StageAssignment>& stages = request.route.stages;
  const auto at =
      std::find_if(stages.begin(), stages.end(), [&](const auto& one) { return one.node == from; });
  if (at == stages.end()) return;  // not asked
  const auto stage = static_cast<std::size_t>(at - stages.begin());
  if (request.phase == Phase::kOpening)
    opened(found->first, request, stage, reply);
  else if (request.stages[stage].asked)
    extended(found->first, request, stage, reply);
}

void Driver::opened(SequenceId handle, Request& request, std::size_t stage,
                    const wire::OpenReply& reply) {
  const std::string node = request.route.stages[stage].node.short_name();
  if (reply.refused.has_value())
    return open_refused(handle, request,
                        reply.refused->with_context(fmt::format("node {} refused", node)));
  if (reply.cached > request.keys.size() * kvcache::kPagePositions ||
      reply.cached % kvcache::kPagePositions != 0 || (reply.cached > 0 && request.wants_scores()))
    return fail(handle, Error(Code::kCorrupt, fmt::format("node {} claims to hold {} positions",
                                                          node, reply.cached)));
  StageState& state = request.stages[stage];
  state.opened = true;
  state.cached = reply.cached;
  state.granted = request.positions_max;
  if (std::all_of(request.stages.begin(), request.stages.end(),
                  [](const StageState& one) { return one.opened; }))
    send_prompt(handle);
}

void Driver::open_refused(SequenceId handle, Request& request, const Error& why) {
  const bool pages = why.code == Code::kResourceExhausted;
  if (!pages && !why.retryable) return fail(handle, why);
  request.refused = why;
  if (!pages) no_route_ = why;
  close_life(request);
  advise({pages ? Kind::kNoPages : Kind::kNoRoute, handle});
  if (const auto found = requests_.find(handle);
      found != requests_.end() && found->second.phase == Phase::kWaiting && !found->second.reading)
    set_aside(handle);
}

void Driver::send_prompt(SequenceId handle) {
  Request& request = requests_.at(handle);
  request.phase = Phase::kRunning;
  request.refused.reset();
  ++running_;
  std::uint32_t cached = request.stages.front().cached;
  for (const StageState& stage : request.stages) cached = std::min(cached, stage.cached);
  std::vector<TokenId> tokens = request.params.prompt;
  tokens.insert(tokens.end(), request.emitted.begin(), request.emitted.end());
  tokens.erase(tokens.begin(), tokens.begin() + cached);
  const PeerId first = request.route.stages.front().node;
  if (!send(first, wire::encode(wire::Prompt{request.wire, std::move(tokens), cached}), handle))
    return;
  request.credit = 0;
  give_credit(handle);
  if (!requests_.contains(handle)) return;
  advise({Kind::kOpened, handle});
  const auto found = requests_.find(handle);
  if (found == requests_.end()) return;
  if (std::exchange(found->second.admitted, true)) {
    ++replays_;
    return;
  }
  queue_time_.observe(to_seconds(env_.clock.now() - found->second.started));
  const std::shared_ptr<TokenSink> sink = found->second.sink;
  sink->cached(cached);
  if (requests_.contains(handle)) sink->admitted();
}

// --- ends

// The sink of a request that is over; empty when it is not known.
std::shared_ptr<TokenSink> Driver::take_out(SequenceId handle) {
  const auto found = requests_.find(handle);
  if (found == requests_.end()) return nullptr;
  close_life(found->second);
  std::shared_ptr<TokenSink> sink = std::move(found->second.sink);
  requests_.erase(found);
  return sink;
}

void Driver::finish(SequenceId handle, wire::Finish reason) {
  if (requests_.at(handle).wants_scores())
    return fail(handle, Error(Code::kCorrupt, "the answer ended before the prompt's scores came"));
  const std::shared_ptr<TokenSink> sink = take_out(handle);
  advise({Kind::kEnded, handle});
  sink->finished(reason);
}

void Driver::fail(SequenceId handle, const Error& why) {
  const std::shared_ptr<TokenSink> sink = take_out(handle);
  if (!sink) return;
  advise({Kind::kEnded, handle});
  env_.events.warn("request.failed", {{"sequence", to_hex(handle.value)}, {"why", why.message}});
  sink->failed(why);
}

void Driver::cancel(SequenceId handle) {
  if (take_out(handle)) advise({Kind::kEnded, handle});
}

// Afterwards the request waits. Best effort: a stage that cannot be reached frees its pages when it
// loses the link to this entry.
void Driver::close_life(Request& request) {
  if (!request.open()) return;
  if (request.phase == Phase::kRunning) --running_;
  request.phase = Phase::kWaiting;
  request.parked.reset();
  handles_.erase(request.wire);
  for (const wire::StageAssignment& stage : request.route.stages) {
    const Result<void> sent =
        env_.transport.send(stage.node, wire::encode(wire::Close{{request.wire}}));
    if (!sent.ok() && sent.error().code != Code::kNotFound)
      env_.events.warn("close.unsent",
                       {{"peer", stage.node.short_name()}, {"why", sent.error().message}});
  }
  request.route.stages.clear();
  request.stages.clear();
}

// False: it could not be sent and the request has failed.
bool Driver::send(PeerId to, env::Frame frame, SequenceId handle) {
  const Result<void> sent = env_.transport.send(to, std::move(frame));
  if (sent.ok()) return true;
  Error why = sent.error().with_context(fmt::format("node {} of the route", to.short_name()));
  if (why.code == Code::kNotFound) why.code = Code::kUnavailable;
  fail(handle, why);
  return false;
}

void Driver::on_fail(PeerId from, const wire::Fail& message) {
  for (SequenceId sequence : message.sequences) {
    const auto found = of_wire(sequence);
    if (found == requests_.end()) continue;
    const auto& stages = found->second.route.stages;
    const bool on_route =
        std::any_of(stages.begin(), stages.end(), [&](const auto& s) { return s.node == from; });
    if (!on_route) continue;
    if (message.why.code == Code::kResourceExhausted && message.why.retryable)
      out_of_pages(found->first, message.why);
    else
      fail(found->first, message.why);
  }
}

void Driver::on_peer_down(PeerId peer, const Error& why) {
  std::vector<std::pair<SequenceId, LayerRange>> hit;
  for (const auto& [life, handle] : handles_)
    for (const wire::StageAssignment& stage : requests_.at(handle).route.stages)
      if (stage.node == peer) hit.emplace_back(life, stage.layers);
  for (const auto& [life, layers] : hit)
    if (const auto found = of_wire(life); found != requests_.end())
      fail(found->first, Error(Code::kUnavailable,
                               fmt::format("node {} with layers {} was lost during the request: {}",
                                           peer.short_name(), layers.to_string(), why.message)));
}

// --- time

std::optional<Error> Driver::overdue(const Request& request, Instant now) const {
  const auto silent = [&](const char* what, const auto& is_silent) {
    std::string text = fmt::format("no answer to {} in time from", what);
    for (std::size_t i = 0; i < request.stages.size(); ++i)
      if (is_silent(request.stages[i]))
        text += " node " + request.route.stages[i].node.short_name();
    return Error(Code::kDeadlineExceeded, text);
  };
  if (now - request.started >= limits::kRequestDeadline) {
    if (request.phase == Phase::kRunning)
      return Error(Code::kDeadlineExceeded, "the request did not finish in time");
    if (request.phase == Phase::kReleased)
      return Error(Code::kDeadlineExceeded, "the reader of the answer did not come back in time");
    std::string text =
        fmt::format("waited {:.0f} s for free KV pages", to_seconds(now - request.started));
    if (request.refused) text += ": " + request.refused->message;
    return Error(Code::kDeadlineExceeded, text, true);
  }
  if (request.phase == Phase::kOpening && now >= request.open_deadline)
    return silent("OPEN", [](const StageState& one) { return !one.opened; });
  const auto unanswered = [&](const StageState& one) {
    return one.asked && now - *one.asked >= limits::kOpenDeadline;
  };
  if (request.phase == Phase::kRunning &&
      std::any_of(request.stages.begin(), request.stages.end(), unanswered))
    return silent("EXTEND", unanswered);
  return std::nullopt;
}

void Driver::tick(Instant now) {
  std::vector<std::pair<SequenceId, Error>> late;
  std::vector<SequenceId> unread;
  for (const auto& [handle, request] : requests_) {
    if (std::optional<Error> why = overdue(request, now))
      late.emplace_back(handle, std::move(*why));
    else if (request.parked && now - *request.parked >= limits::kParkedRelease)
      unread.push_back(handle);
  }
  for (const auto& [handle, why] : late) fail(handle, why);  // unless a sink cancelled it meanwhile
  for (SequenceId handle : unread) {
    const auto found = requests_.find(handle);
    if (found == requests_.end() || !found->second.parked) continue;
    ++releases_;
    env_.events.info("request.released", {{"sequence", to_hex(handle.value)}});
    set_aside(handle);
  }
  advise({Kind::kTime});
  measure(now);
}

void Driver::measure(Instant now) {
  const Duration elapsed = now - window_start_;
  if (elapsed < seconds(1)) return;
  tokens_per_s_ = static_cast<double>(tokens_in_window_) / to_seconds(elapsed);
  if (tokens_in_window_ > 0)
    usual_tokens_per_s_ =
        usual_tokens_per_s_ > 0 ? 0.7 * usual_tokens_per_s_ + 0.3 * tokens_per_s_ : tokens_per_s_;
  tokens_in_window_ = 0;
  window_start_ = now;
}

std::size_t Driver::parked() const {
  std::size_t count = 0;
  for (const auto& [handle, request] : requests_)
    count += request.phase == Phase::kReleased || request.parked;
  return count;
}

std::uint32_t Driver::retry_after_s() const {
  double tokens = 0;
  for (const auto& [handle, request] : requests_) tokens += request.end() - request.known();
  if (tokens == 0) return 1;
  // Before anything has been measured: a guess of a token each tenth of a second.
  const double rate = usual_tokens_per_s_ > 0 ? usual_tokens_per_s_ : 10;
  return static_cast<std::uint32_t>(std::clamp(std::ceil(tokens / rate), 1.0, 60.0));
}

}  // namespace mesh::pipeline
