#pragma once
// A node's control plane alone — Membership, Planner and a make-believe loader — on any Env. What
// the simulation of large meshes and the scenario texts run; production wires the same cores in
// node/.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "env/env.h"
#include "membership/fake_verifier.h"
#include "membership/membership.h"
#include "scheduler/planner.h"
#include "scheduler/router.h"

namespace mesh::sim {

struct ControlConfig {
  PeerId id;
  std::string name;
  std::string cluster = std::string(32, 'C');
  env::Address address;
  std::vector<env::Address> seeds;
  wire::EngineIdentity engine{"0.1.0", "cpu/1", 7};
  std::optional<wire::ModelIdentity> model;
  scheduler::ModelCost cost;
  std::uint64_t memory = 0;
  std::optional<LayerRange> pinned;
  bool willing = true;
  std::uint32_t min_nodes = 1;
  Duration load_time = milliseconds(200);  // from a new plan to ready
};

// Control-loop only. Use as: construct, then start().
class ControlNode : public env::TransportHandler {
 public:
  using OnChange = std::function<void(const membership::Change&)>;
  // `on_change` may be empty; it sees every change of membership.
  ControlNode(env::Env env, ControlConfig config, OnChange on_change = {});
  ~ControlNode() override { env_.transport.set_handler(nullptr); }
  ControlNode(const ControlNode&) = delete;
  ControlNode& operator=(const ControlNode&) = delete;

  void start();
  void on_link_up(const env::LinkInfo& link) override;
  void on_frame(PeerId from, env::Frame frame) override;
  void on_link_down(PeerId peer, const Error& why) override;
  void on_dial_failed(const env::Address& address, const Error& why) override;

  const ControlConfig& config() const { return config_; }
  const membership::Membership& membership() const { return membership_; }
  const scheduler::Planner& planner() const { return planner_; }
  scheduler::Nodes nodes() const;
  // As an entry would ask.
  Result<std::vector<wire::StageAssignment>> route() const;

 private:
  void perform(membership::Actions actions);
  void arm();
  void plan_soon();
  void plan_now();
  void follow_plan();
  wire::NodeRecord own_record() const;

  env::Env env_;
  ControlConfig config_;
  OnChange on_change_;
  membership::FakeVerifier verifier_;
  membership::Membership membership_;
  scheduler::Planner planner_;
  wire::NodeState state_ = wire::NodeState::kWaiting;
  Epoch loaded_;
  LayerRange layers_;
  Epoch wanted_;
  std::uint64_t incarnation_ = 0;
  Instant armed_for_ = Instant::max();
  env::TimerHandle tick_, planning_, loading_;
};

}  // namespace mesh::sim
