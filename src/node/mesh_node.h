#pragma once
// One node of the mesh without sockets, files or threads: membership, planner, its stage (hop) and
// its requests (driver) wired to an Env. Production (node/local_node.h) and simulation (sim/) run
// this same class. Control loop only.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/result.h"
#include "engine/compute.h"
#include "env/env.h"
#include "membership/membership.h"
#include "node/gateway.h"
#include "pipeline/driver.h"
#include "pipeline/hop.h"
#include "scheduler/planner.h"
#include "wire/messages.h"

namespace mesh::node {

struct NodeConfig {
  std::string name;
  std::string cluster;  // short id, for the status
  wire::Certificate certificate;
  wire::EngineIdentity engine;
  std::vector<std::string> addresses;  // where this node accepts peers, host:port
  std::string http;                    // host:port of its API, "" for none
  std::string device;
  wire::MachineShare share;
  std::vector<env::Address> seeds;                   // --peer
  bool willing = true;                               // may hold layers and be planner
  std::optional<LayerRange> pinned;                  // --layers
  std::uint64_t memory_for_model = 0;                // bytes offered for weights and KV
  std::uint32_t min_nodes = 1;                       // before the first plan
  std::size_t max_queue = limits::kWaitingRequests;  // sequences waiting here, their entry
};

// The model as this node has it on its disk.
struct LocalModel {
  wire::ModelIdentity identity;
  scheduler::ModelCost cost;
  // Source bytes of the tensors that a stage with these layers reads.
  std::function<std::uint64_t(LayerRange)> stage_bytes;
};

// Called on the control loop; any may be empty.
struct NodeHooks {
  // The mesh serves this model and this node has none yet. Once per model.
  std::function<void(const wire::ModelIdentity&)> model_wanted;
  // A link was refused; the sentence names both sides. `by_seed`: it is a node that this one was
  // told to connect to, not somebody who came by.
  std::function<void(const std::string& sentence, bool by_seed)> refused;
  // A member came or went, or the plan is new.
  std::function<void()> changed;
};

class MeshNode : public env::TransportHandler {
 public:
  // Sets itself as the transport's handler. `env` and `verifier` outlive the node.
  MeshNode(env::Env& env, const membership::Verifier& verifier, NodeConfig config,
           NodeHooks hooks = {});
  ~MeshNode() override;

  // Where the API listens, for the record. Before start().
  void set_http(std::string address) { own_.http = std::move(address); }
  // Dials the seeds and starts the timers.
  void start();
  // From now on this node can hold layers of this model. Once. `compute` outlives the node.
  void attach_model(LocalModel model, engine::Compute& compute);
  // The model cannot be had; the record says why.
  void give_up(const Error& why);

  // Before the node ends: no new sequence is taken, the record says so, and the planner gives the
  // layers to others; sequences that run here come to their end. Not undone. Any state, once.
  void drain();
  // Nothing of others or of this node runs here any more.
  bool drained() const { return leaving_ && (!hop_ || hop_->idle()); }
  std::size_t max_queue() const { return config_.max_queue; }

  pipeline::Driver& driver() { return driver_; }
  // A covering route on ready nodes, or why there is none (names the layers that lack a host).
  Result<pipeline::RouteChoice> choose_route() const;
  // Positions that a sequence may have on every node of the route: what the smallest KV pool holds,
  // at most the context.
  std::uint32_t positions_max(const pipeline::RouteChoice& route) const;
  std::uint32_t context() const { return model_ ? model_->identity.context : 0; }
  const membership::Membership& membership() const { return membership_; }
  const pipeline::Hop* hop() const { return hop_.get(); }
  MeshStatus status() const;

  void on_link_up(const env::LinkInfo& link) override;
  void on_frame(PeerId from, env::Frame frame) override;
  void on_link_down(PeerId peer, const Error& why) override;
  void on_dial_failed(const env::Address& address, const Error& why) override;

 private:
  void apply(membership::Actions actions);
  void on_change(const membership::Change& change);
  // After any input: plan if it is our turn, follow the plan, publish our record.
  void settle();
  void tick();
  void arm_tick();
  void dispatch(PeerId from, env::Frame frame);
  void bad_frame(PeerId from, const Error& why);
  scheduler::Nodes nodes() const;
  void ask_for_model();
  void follow_plan();
  void begin_load();
  void loaded(Epoch epoch, Result<engine::LoadReport> report);
  void publish(bool counters_too);
  void refresh_metrics();  // gauges of the members
  bool any_member_alive() const;
  NodeStatus node_status(const wire::NodeRecord& record, const membership::Member* member) const;

  env::Env& env_;
  NodeConfig config_;
  NodeHooks hooks_;
  membership::Membership membership_;
  scheduler::Planner planner_;
  pipeline::Driver driver_;
  std::optional<LocalModel> model_;
  engine::Compute* compute_ = nullptr;
  std::unique_ptr<pipeline::Hop> hop_;
  wire::NodeRecord own_;
  std::set<PeerId> linked_seeds_;  // peers behind links that this node dialled as --peer
  Instant counters_published_;
  std::uint64_t model_asked_ = 0;  // fingerprint already asked for

  // Following a plan: drain the old sequences, then load, then serve.
  bool loading_ = false;
  bool draining_ = false;
  Instant drain_deadline_;
  LayerRange target_;
  bool leaving_ = false;  // drain() was called: no plan is followed any more

  env::TimerHandle tick_timer_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace mesh::node
