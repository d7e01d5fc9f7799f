#include "sim/control_node.h"

namespace mesh::sim {
namespace {

// Changes come in bursts; the planner looks once per burst.
constexpr Duration kPlanDelay = milliseconds(10);

membership::Config membership_config(const ControlConfig& config,
                                     const membership::Verifier& verifier, std::uint64_t seed) {
  membership::Config out;
  out.self = config.id;
  out.hello.protocol = 1;
  out.hello.node_name = config.name;
  out.hello.certificate =
      membership::FakeVerifier::issue(config.cluster, config.id, std::int64_t{1} << 60);
  out.hello.engine = config.engine;
  out.hello.model = config.model;
  out.hello.addresses = {config.address.to_string()};
  out.seeds = config.seeds;
  out.verifier = &verifier;
  out.jitter_seed = seed;
  return out;
}

}  // namespace

ControlNode::ControlNode(env::Env env, ControlConfig config, OnChange on_change)
    : env_(env),
      config_(std::move(config)),
      on_change_(std::move(on_change)),
      verifier_(config_.id, config_.cluster),
      membership_(membership_config(config_, verifier_, env_.random.next_u64())),
      planner_({config_.id, config_.min_nodes}),
      incarnation_(static_cast<std::uint64_t>(env_.clock.unix_milliseconds())) {}

void ControlNode::start() {
  env_.transport.set_handler(this);
  perform(membership_.set_own(env_.clock.now(), own_record()));
  plan_soon();
}

wire::NodeRecord ControlNode::own_record() const {
  wire::NodeRecord record;
  record.incarnation = incarnation_;
  record.name = config_.name;
  record.addresses = {config_.address.to_string()};
  record.engine = config_.engine;
  record.model = config_.model;
  record.willing = config_.willing;
  record.pinned = config_.pinned;
  record.memory_for_model = config_.memory;
  record.state = state_;
  record.epoch = loaded_;
  record.layers = layers_;
  return record;
}

void ControlNode::on_link_up(const env::LinkInfo& link) {
  perform(membership_.link_up(env_.clock.now(), link));
}

void ControlNode::on_frame(PeerId from, env::Frame frame) {
  perform(membership_.frame(env_.clock.now(), env_.clock.unix_milliseconds(), from, frame));
}

void ControlNode::on_link_down(PeerId peer, const Error& why) {
  perform(membership_.link_down(env_.clock.now(), peer, why));
}

void ControlNode::on_dial_failed(const env::Address& address, const Error& why) {
  perform(membership_.dial_failed(env_.clock.now(), address, why));
}

void ControlNode::perform(membership::Actions actions) {
  for (auto& [peer, frame] : actions.send) {
    const auto sent = env_.transport.send(peer, std::move(frame));
    if (!sent.ok() && sent.error().code != Code::kNotFound)
      env_.events.warn("link.send_failed",
                       {{"peer", peer.short_name()}, {"why", sent.error().message}});
  }
  for (const auto& [peer, why] : actions.close) env_.transport.close(peer, why);
  for (const env::Address& address : actions.dial) env_.transport.dial(address);
  bool plan_changed = false;
  for (const membership::Change& change : actions.changes) {
    plan_changed = plan_changed || change.kind == membership::Change::Kind::kPlanChanged;
    if (on_change_) on_change_(change);
  }
  if (plan_changed) follow_plan();
  if (!actions.changes.empty()) plan_soon();
  arm();
}

void ControlNode::arm() {
  const Instant at = membership_.wake_at();
  if (tick_.armed() && armed_for_ == at) return;
  armed_for_ = at;
  tick_.cancel();
  if (at == Instant::max()) return;
  tick_ = env_.timers.after(std::max(Duration{}, at - env_.clock.now()),
                            [this] { perform(membership_.tick(env_.clock.now())); });
}

void ControlNode::plan_soon() {
  if (planning_.armed()) return;
  planning_ = env_.timers.after(kPlanDelay, [this] { plan_now(); });
}

scheduler::Nodes ControlNode::nodes() const {
  scheduler::Nodes out;
  out.push_back({membership_.own(), true});
  for (const auto& [peer, member] : membership_.members())
    out.push_back({member.record, member.alive});
  return out;
}

void ControlNode::plan_now() {
  const auto plan =
      planner_.step(env_.clock.now(), {nodes(), membership_.plan(), config_.model, &config_.cost});
  const Instant wake = planner_.wake_at();
  if (wake != Instant::max())
    planning_ = env_.timers.after(wake - env_.clock.now(), [this] { plan_now(); });
  if (!plan) return;
  env_.events.info("plan.made", {{"epoch", plan->epoch.value}, {"stages", plan->stages.size()}});
  perform(membership_.announce(env_.clock.now(), *plan));
}

void ControlNode::follow_plan() {
  const wire::Plan& plan = membership_.plan();
  wanted_ = plan.epoch;
  LayerRange mine;
  for (const wire::StageAssignment& stage : plan.stages)
    if (stage.node == config_.id) mine = stage.layers;
  loading_.cancel();
  layers_ = LayerRange{};
  loaded_ = Epoch{};
  state_ = mine.empty() ? wire::NodeState::kWaiting : wire::NodeState::kLoading;
  perform(membership_.set_own(env_.clock.now(), own_record()));
  if (mine.empty()) return;
  loading_ = env_.timers.after(config_.load_time, [this, mine, epoch = plan.epoch] {
    state_ = wire::NodeState::kReady;
    layers_ = mine;
    loaded_ = epoch;
    perform(membership_.set_own(env_.clock.now(), own_record()));
  });
}

Result<std::vector<wire::StageAssignment>> ControlNode::route() const {
  return scheduler::route(membership_.plan(), nodes(),
                          config_.model ? config_.model->layers : membership_.plan().layers);
}

}  // namespace mesh::sim
