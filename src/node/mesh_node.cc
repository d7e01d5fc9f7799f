#include "node/mesh_node.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/version.h"
#include "kvcache/page_tables.h"
#include "scheduler/router.h"

namespace mesh::node {
namespace {

membership::Config membership_config(env::Env& env, const membership::Verifier& verifier,
                                     const NodeConfig& config) {
  membership::Config out;
  out.self = env.transport.self();
  out.hello.protocol = kProtocolVersion;
  out.hello.node_name = config.name;
  out.hello.certificate = config.certificate;
  out.hello.engine = config.engine;
  out.hello.addresses = config.addresses;
  out.seeds = config.seeds;
  out.verifier = &verifier;
  out.jitter_seed = env.random.next_u64();
  return out;
}

Error leaving() {
  return Error(Code::kUnavailable, "this node is shutting down", true);
}

}  // namespace

MeshNode::MeshNode(env::Env& env, const membership::Verifier& verifier, NodeConfig config,
                   NodeHooks hooks)
    : env_(env),
      config_(std::move(config)),
      hooks_(std::move(hooks)),
      membership_(membership_config(env, verifier, config_)),
      planner_({env.transport.self(), config_.min_nodes}),
      driver_(
          env, [this] { return choose_route(); }, pipeline::DriverOptions{config_.max_queue}),
      counters_published_(env.clock.now()) {
  own_.node = env.transport.self();
  own_.incarnation = static_cast<std::uint64_t>(env.clock.unix_milliseconds());
  own_.name = config_.name;
  own_.addresses = config_.addresses;
  own_.http = config_.http;
  own_.device = config_.device;
  own_.engine = config_.engine;
  own_.willing = config_.willing;
  own_.pinned = config_.pinned;
  own_.memory_for_model = config_.memory_for_model;
  own_.share = config_.share;
  env_.transport.set_handler(this);
  env_.metrics.before_render([this, alive = std::weak_ptr<bool>(alive_)] {
    if (!alive.expired()) refresh_metrics();
  });
}

void MeshNode::refresh_metrics() {
  const auto layers = [this](PeerId node, double count) {
    env_.metrics.gauge("mesh_layers", "Layers that a node holds.", {{"node", node.short_name()}})
        .set(count);
  };
  const auto up = [this](PeerId node, bool alive) {
    env_.metrics
        .gauge("mesh_node_up", "Whether a node is seen alive.", {{"node", node.short_name()}})
        .set(alive ? 1 : 0);
  };
  const auto link_bytes = [this](PeerId to, const char* direction, std::uint64_t total) {
    metrics::Counter& counter =
        env_.metrics.counter("mesh_link_bytes_total", "Bytes on the wire between two nodes.",
                             {{"to", to.short_name()}, {"direction", direction}});
    counter.add(static_cast<double>(total) - counter.value());
  };
  layers(own_.node, own_.layers.size());
  up(own_.node, true);
  for (const auto& [peer, member] : membership_.members()) {
    layers(peer, member.alive ? member.record.layers.size() : 0);
    up(peer, member.alive);
    env_.metrics
        .gauge("mesh_link_rtt_seconds", "Round trip to a node.", {{"to", peer.short_name()}})
        .set(to_seconds(member.rtt));
    const env::Traffic traffic = env_.transport.traffic(peer);
    link_bytes(peer, "sent", traffic.sent);
    link_bytes(peer, "received", traffic.received);
  }
}

MeshNode::~MeshNode() {
  env_.transport.set_handler(nullptr);
}

void MeshNode::start() {
  publish(true);
  tick();
}

void MeshNode::attach_model(LocalModel model, engine::Compute& compute) {
  MESH_CHECK(!model_, "attach_model() twice");
  model_ = std::move(model);
  compute_ = &compute;
  hop_ = std::make_unique<pipeline::Hop>(env_, compute);
  own_.model = model_->identity;
  own_.state = leaving_ ? wire::NodeState::kDraining : wire::NodeState::kWaiting;
  if (leaving_) hop_->refuse_new(leaving());
  apply(membership_.set_model(env_.clock.now(), model_->identity));
  settle();
}

void MeshNode::give_up(const Error& why) {
  own_.state = wire::NodeState::kFailed;
  own_.problem = why.message;
  settle();
}

void MeshNode::drain() {
  leaving_ = true;
  draining_ = false;
  if (hop_) hop_->refuse_new(leaving());
  if (own_.state != wire::NodeState::kFailed) own_.state = wire::NodeState::kDraining;
  settle();
}

// --- inputs
// -----------------------------------------------------------------------------------------------------

void MeshNode::on_link_up(const env::LinkInfo& link) {
  const auto& seeds = config_.seeds;
  if (link.outbound && std::find(seeds.begin(), seeds.end(), link.remote) != seeds.end())
    linked_seeds_.insert(link.peer);
  else
    linked_seeds_.erase(link.peer);
  apply(membership_.link_up(env_.clock.now(), link));
  settle();
}

void MeshNode::on_link_down(PeerId peer, const Error& why) {
  apply(membership_.link_down(env_.clock.now(), peer, why));
  settle();
}

void MeshNode::on_dial_failed(const env::Address& address, const Error& why) {
  env_.events.debug("dial.failed", {{"address", address.to_string()}, {"why", why.message}});
  apply(membership_.dial_failed(env_.clock.now(), address, why));
}

void MeshNode::on_frame(PeerId from, env::Frame frame) {
  if (from != env_.transport.self()) {
    apply(membership_.frame(env_.clock.now(), env_.clock.unix_milliseconds(), from, frame));
    if (!membership_.accepted(from)) return;
  }
  if (frame.type >= static_cast<std::uint8_t>(wire::FrameType::kOpen))
    dispatch(from, std::move(frame));
  else
    settle();
}

void MeshNode::dispatch(PeerId from, env::Frame frame) {
  auto handle = [&](auto message, auto&& use) {
    if (message.ok())
      use(std::move(message).value());
    else
      bad_frame(from, message.error());
  };
  const bool stage = hop_ != nullptr;
  switch (static_cast<wire::FrameType>(frame.type)) {
    case wire::FrameType::kOpen:
      return handle(wire::decode_open(frame), [&](wire::Open open) {
        if (stage)
          hop_->on_open(from, open);
        else
          (void)env_.transport
              .send(from, wire::encode(wire::OpenReply{
                              open.sequence,
                              Error(Code::kUnavailable, "this node has no model yet", true)}))
              .ok();
      });
    case wire::FrameType::kOpenReply:
      return handle(wire::decode_open_reply(frame),
                    [&](const wire::OpenReply& m) { driver_.on_open_reply(from, m); });
    case wire::FrameType::kPrompt:
      return handle(wire::decode_prompt(frame), [&](const wire::Prompt& m) {
        if (stage) hop_->on_prompt(from, m);
      });
    case wire::FrameType::kStep:
      if (!stage) return;
      return handle(wire::decode_step(frame, hop_->row_bytes()),
                    [&](wire::StepMessage m) { hop_->on_step(from, std::move(m)); });
    case wire::FrameType::kTokens:
      return handle(wire::decode_tokens(frame), [&](const wire::Tokens& m) {
        if (stage) hop_->on_tokens(from, m);
        driver_.on_tokens(from, m);
      });
    case wire::FrameType::kClose:
      return handle(wire::decode_close(frame), [&](const wire::Close& m) {
        if (stage) hop_->on_close(from, m);
      });
    case wire::FrameType::kFail:
      return handle(wire::decode_fail(frame),
                    [&](const wire::Fail& m) { driver_.on_fail(from, m); });
    case wire::FrameType::kExtend:
      return handle(wire::decode_extend(frame), [&](const wire::Extend& m) {
        if (stage) hop_->on_extend(from, m);
      });
    case wire::FrameType::kCredit:
      return handle(wire::decode_credit(frame), [&](const wire::Credit& m) {
        if (stage) hop_->on_credit(from, m);
      });
    case wire::FrameType::kRowsDone:
      return handle(wire::decode_rows_done(frame), [&](const wire::RowsDone& m) {
        if (stage) hop_->on_rows_done(from, m);
      });
    case wire::FrameType::kScores:
      return handle(wire::decode_scores(frame),
                    [&](const wire::Scores& m) { driver_.on_scores(from, m); });
    default:
      break;
  }
  if ((frame.flags & wire::kFlagOptional) == 0)
    bad_frame(from, Error(Code::kUnsupported,
                          fmt::format("frame type {} is not known here", frame.type)));
}

// A peer that sends what cannot be read is cut off: what follows on that link could not be trusted
// either.
void MeshNode::bad_frame(PeerId from, const Error& why) {
  env_.events.warn("frame.bad", {{"peer", from.short_name()}, {"why", why.message}});
  if (from != env_.transport.self()) env_.transport.close(from, why);
}

void MeshNode::arm_tick() {
  tick_timer_ = env_.timers.after(milliseconds(100), [this] { tick(); });
}

void MeshNode::tick() {
  const Instant now = env_.clock.now();
  if (now >= membership_.wake_at()) apply(membership_.tick(now));
  driver_.tick(now);
  if (hop_) hop_->tick(now);
  settle();
  arm_tick();
}

// --- membership
// -------------------------------------------------------------------------------------------------

void MeshNode::apply(membership::Actions actions) {
  for (auto& [peer, frame] : actions.send)
    if (const Result<void> sent = env_.transport.send(peer, std::move(frame)); !sent.ok())
      env_.events.debug("send.failed",
                        {{"peer", peer.short_name()}, {"why", sent.error().message}});
  for (const auto& [peer, why] : actions.close) env_.transport.close(peer, why);
  for (const env::Address& address : actions.dial) env_.transport.dial(address);
  for (const membership::Change& change : actions.changes) on_change(change);
}

void MeshNode::on_change(const membership::Change& change) {
  using Kind = membership::Change::Kind;
  // First: who is told of a loss below may look at the status at once.
  const bool shown = change.kind != Kind::kRecordChanged && change.kind != Kind::kForgotten;
  if (shown && hooks_.changed) hooks_.changed();
  switch (change.kind) {
    case Kind::kMemberUp:
      env_.events.info("member.up", {{"peer", change.peer.short_name()}});
      break;
    case Kind::kMemberDown:
      env_.events.warn("member.down",
                       {{"peer", change.peer.short_name()}, {"why", change.sentence}});
      driver_.on_peer_down(change.peer, Error(Code::kUnavailable, change.sentence));
      if (hop_) hop_->on_peer_down(change.peer);
      break;
    case Kind::kRefused:
      env_.events.warn("link.refused",
                       {{"peer", change.peer.short_name()}, {"why", change.sentence}});
      if (hooks_.refused) hooks_.refused(change.sentence, linked_seeds_.count(change.peer) > 0);
      break;
    case Kind::kPlanChanged:
      env_.events.info("plan.new", {{"epoch", membership_.plan().epoch.value},
                                    {"planner", change.peer.short_name()}});
      break;
    case Kind::kRecordChanged:
    case Kind::kForgotten:
      break;
  }
}

scheduler::Nodes MeshNode::nodes() const {
  scheduler::Nodes all;
  all.push_back({own_, true});
  for (const auto& [peer, member] : membership_.members())
    all.push_back({member.record, member.alive});
  return all;
}

void MeshNode::settle() {
  ask_for_model();
  if (model_) {
    const std::optional<wire::ModelIdentity> identity = model_->identity;
    std::optional<wire::Plan> plan =
        planner_.step(env_.clock.now(), {nodes(), membership_.plan(), identity, &model_->cost});
    if (plan.has_value()) apply(membership_.announce(env_.clock.now(), std::move(*plan)));
    follow_plan();
    hop_->compute_at_once(scheduler::stages_at_once(membership_.plan().stages, nodes()));
  }
  publish(false);
}

void MeshNode::ask_for_model() {
  if (model_ || !hooks_.model_wanted) return;
  for (const auto& [peer, member] : membership_.members()) {
    if (!member.alive || !member.record.model.has_value()) continue;
    const wire::ModelIdentity& identity = *member.record.model;
    if (identity.fingerprint == model_asked_) return;
    model_asked_ = identity.fingerprint;
    hooks_.model_wanted(identity);
    return;
  }
}

// --- layers
// -----------------------------------------------------------------------------------------------------

void MeshNode::follow_plan() {
  const wire::Plan& plan = membership_.plan();
  if (leaving_ || loading_ || plan.epoch.value == 0 ||
      plan.fingerprint != model_->identity.fingerprint)
    return;
  if (own_.state == wire::NodeState::kFailed || plan.epoch == own_.epoch) return;
  LayerRange mine;
  for (const wire::StageAssignment& stage : plan.stages)
    if (stage.node == own_.node) mine = stage.layers;
  if (mine == own_.layers) {
    // Nothing to load; sequences of the old epoch run on where their other stages do.
    hop_->refuse_new(std::nullopt);
    hop_->advance_epoch(plan.epoch);
    own_.epoch = plan.epoch;
    own_.state = mine.empty() ? wire::NodeState::kWaiting : wire::NodeState::kReady;
    draining_ = false;
    return;
  }
  target_ = mine;
  if (!draining_) {
    draining_ = true;
    drain_deadline_ = env_.clock.now() + limits::kDrainDeadline;
    own_.state = wire::NodeState::kLoading;
    hop_->refuse_new(Error(Code::kUnavailable, "this node is changing its layers", true));
  }
  if (!hop_->idle() && env_.clock.now() >= drain_deadline_)
    hop_->fail_all(
        Error(Code::kUnavailable, "the layers of this node were given to another one", true));
  if (hop_->idle()) begin_load();
}

void MeshNode::begin_load() {
  loading_ = true;
  draining_ = false;
  own_.state = wire::NodeState::kLoading;
  own_.layers = {};
  own_.bytes_loaded = 0;
  const Epoch epoch = membership_.plan().epoch;
  env_.events.info("stage.loading", {{"layers", target_.to_string()}, {"epoch", epoch.value}});
  compute_->load(target_, [this, epoch,
                           alive = std::weak_ptr<bool>(alive_)](Result<engine::LoadReport> report) {
    if (!alive.expired()) loaded(epoch, std::move(report));
  });
}

void MeshNode::loaded(Epoch epoch, Result<engine::LoadReport> report) {
  loading_ = false;
  if (!report.ok()) {
    env_.events.error("stage.failed",
                      {{"layers", target_.to_string()}, {"why", report.error().message}});
    own_.state = wire::NodeState::kFailed;
    own_.problem = report.error().message;
    return settle();
  }
  own_.layers = report->layers;
  own_.epoch = epoch;
  own_.bytes_loaded = report->bytes_loaded;
  own_.pages_total = report->pages > 0 ? report->pages - 1 : 0;  // page 0 holds nothing
  own_.state = leaving_              ? wire::NodeState::kDraining
               : own_.layers.empty() ? wire::NodeState::kWaiting
                                     : wire::NodeState::kReady;
  hop_->hold({epoch, own_.layers, model_->identity.fingerprint, config_.engine.numeric_class,
              report->pages});
  hop_->refuse_new(leaving_ ? std::optional(leaving()) : std::nullopt);
  env_.events.info("stage.ready", {{"layers", own_.layers.to_string()},
                                   {"epoch", epoch.value},
                                   {"bytes", own_.bytes_loaded},
                                   {"pages", own_.pages_total}});
  settle();
}

// Counters change with every step; they are gossiped at the pace of heartbeats, everything else at
// once.
void MeshNode::publish(bool counters_too) {
  const Instant now = env_.clock.now();
  if (counters_too || now - counters_published_ >= limits::kHeartbeat) {
    counters_published_ = now;
    own_.rows_computed = hop_ ? hop_->rows_computed() : 0;
    own_.pages_used = hop_ ? hop_->pages_used() : 0;
    own_.tokens_per_s = driver_.tokens_per_s();
  }
  apply(membership_.set_own(now, own_));
}

// --- answers
// ----------------------------------------------------------------------------------------------------

Result<pipeline::RouteChoice> MeshNode::choose_route() const {
  if (!model_)
    return Error(Code::kUnavailable, "this node does not know the mesh's model yet", true);
  const wire::Plan& plan = membership_.plan();
  if (plan.epoch.value == 0)
    return Error(Code::kUnavailable,
                 fmt::format("there is no layer plan yet: {}",
                             planner_.waiting_for().empty() ? std::string("waiting for the planner")
                                                            : planner_.waiting_for()),
                 true);
  MESH_ASSIGN_OR_RETURN(std::vector<wire::StageAssignment> stages,
                        scheduler::route(plan, nodes(), model_->identity.layers));
  return pipeline::RouteChoice{plan.epoch, plan.fingerprint, config_.engine.numeric_class,
                               std::move(stages)};
}

std::uint32_t MeshNode::positions_max(const pipeline::RouteChoice& route) const {
  std::uint64_t least = context();
  for (const scheduler::NodeView& node : nodes())
    for (const wire::StageAssignment& stage : route.stages)
      if (stage.node == node.record.node && node.record.pages_total > 1)
        least =
            std::min(least, std::uint64_t{node.record.pages_total - 1} * kvcache::kPagePositions);
  return static_cast<std::uint32_t>(least);
}

NodeStatus MeshNode::node_status(const wire::NodeRecord& record,
                                 const membership::Member* member) const {
  NodeStatus out;
  out.id = record.node;
  out.name = record.name;
  out.self = member == nullptr;
  out.state = member != nullptr && !member->alive
                  ? "lost"
                  : std::string(scheduler::state_name(record.state));
  out.problem = record.problem;
  out.http = record.http;
  out.peer = record.addresses.empty() ? "" : record.addresses.front();
  out.device = record.device;
  out.layers = record.layers;
  out.bytes_loaded = record.bytes_loaded;
  out.rows_computed = out.self && hop_ ? hop_->rows_computed() : record.rows_computed;
  // A peer may say anything of its layers.
  if (model_ && !record.layers.empty() && record.layers.end <= model_->identity.layers &&
      model_->stage_bytes)
    out.bytes_expected = model_->stage_bytes(record.layers);
  out.pages_total = record.pages_total;
  out.pages_used = out.self && hop_ ? hop_->pages_used() : record.pages_used;
  out.tokens_per_s = record.tokens_per_s;
  out.rtt_ms = member != nullptr ? to_milliseconds(member->rtt) : 0;
  return out;
}

bool MeshNode::any_member_alive() const {
  const auto& members = membership_.members();
  return std::any_of(members.begin(), members.end(),
                     [](const auto& entry) { return entry.second.alive; });
}

MeshStatus MeshNode::status() const {
  MeshStatus out;
  out.cluster = config_.cluster;
  out.version = engine_version();
  out.numeric_class = config_.engine.numeric_class;
  out.self_test = config_.engine.self_test;
  const wire::Plan& plan = membership_.plan();
  out.epoch = plan.epoch;
  out.tokens_per_s = driver_.tokens_per_s();
  if (model_) {
    out.model = model_->identity.name;
    out.fingerprint = model_->identity.fingerprint;
    out.layers = model_->identity.layers;
    out.context = model_->identity.context;
    out.kv_dtype = model_->identity.kv_dtype;
    out.missing = scheduler::missing_layers(plan, nodes(), out.layers);
    const Result<pipeline::RouteChoice> route = choose_route();
    out.ready = route.ok();
    if (!route.ok()) out.waiting_for = route.error().message;
  } else if (!own_.problem.empty()) {
    out.waiting_for = own_.problem;
  } else if (!config_.seeds.empty() && !any_member_alive()) {
    out.waiting_for =
        fmt::format("no node of a mesh answers at {} yet (the peer port, usually 8643)",
                    config_.seeds.front().to_string());
  } else {
    out.waiting_for = "the model is not known yet";
  }
  out.nodes.push_back(node_status(own_, nullptr));
  for (const auto& [peer, member] : membership_.members())
    out.nodes.push_back(node_status(member.record, &member));
  std::sort(out.nodes.begin(), out.nodes.end(), [](const NodeStatus& a, const NodeStatus& b) {
    return std::tuple(a.layers.empty(), a.layers.begin, a.id) <
           std::tuple(b.layers.empty(), b.layers.begin, b.id);
  });
  return out;
}

}  // namespace mesh::node
