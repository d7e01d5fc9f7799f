#pragma once
// Whole nodes in one World: the production class node::MeshNode on a simulated Host, network card
// and engine, and clients that ask them. What the clients see, and what the nodes say of
// themselves, is checked against the invariants (design: section 4, numbers 1 to 4 and 6).

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/compute.h"
#include "membership/fake_verifier.h"
#include "node/mesh_node.h"
#include "pipeline/driver.h"
#include "sim/checkers.h"
#include "sim/fake_compute.h"
#include "sim/sim_network.h"
#include "sim/world.h"

namespace mesh::sim {

struct FullMeshOptions {
  std::uint64_t seed = 1;
  std::uint32_t nodes = 3;
  std::uint32_t layers = 6;
  std::uint32_t min_nodes = 1;                 // before the first plan
  std::map<std::uint32_t, LayerRange> pinned;  // by node number
  double memory = 1;                           // of each node, as a share of the whole model
  std::uint32_t pages = 400;                   // KV pages of each node, page 0 included
  // Of submit_random(): answers up to so long, and of eight clients so many that pause.
  std::uint32_t answer_max = 60;
  std::uint32_t slow_readers = 0;
  // Nothing hangs: suspicion of a silent node, then 3 s, then the slowest ring of these links. More
  // where requests wait for pages.
  Duration stall = seconds(8);
  LinkQuality link;
  // Replaceable, so that a test can break them and see the checkers speak up. Empty: FakeCompute,
  // the client's own sink.
  std::function<std::unique_ptr<engine::Compute>(std::unique_ptr<FakeCompute>)> wrap_compute;
  std::function<std::shared_ptr<pipeline::TokenSink>(std::shared_ptr<pipeline::TokenSink>)>
      wrap_sink;
};

// What clients saw.
struct ClientCounts {
  std::size_t submitted = 0, finished = 0, cancelled = 0;
  std::size_t lost = 0;                       // their entry crashed
  std::map<std::string, std::size_t> failed;  // by the name of the code
  std::uint64_t tokens = 0;
  // What the drivers of all entries did.
  std::uint64_t preemptions = 0;  // for want of pages
  std::uint64_t parked = 0;       // pages given up for want of a reader
  std::uint64_t replays = 0;
};

struct ClientHabits {
  std::optional<std::size_t> cancel_after = std::nullopt;  // tokens; then it leaves
  std::optional<std::size_t> pause_after = std::nullopt;   // tokens; then it reads nothing for
  Duration pause{};
};

// Nodes are numbered from 1; node n has the id ControlMesh::id(n) and the name "n0001".
class FullMesh {
 public:
  explicit FullMesh(FullMeshOptions options);
  FullMesh(const FullMesh&) = delete;
  FullMesh& operator=(const FullMesh&) = delete;
  ~FullMesh();

  World& world() { return world_; }
  SimNetwork& network() { return network_; }
  Violations& violations() { return violations_; }
  const FakeComputeConfig& compute() const { return compute_; }
  ClientCounts counts() const;

  void start(std::uint32_t n);
  // Destroys the node and with it the requests that it was the entry of; with `silent` its peers
  // are not told.
  void crash(std::uint32_t n, bool silent = false);
  bool running(std::uint32_t n) const { return machines_.at(n).node != nullptr; }
  node::MeshNode& node(std::uint32_t n) { return *machines_.at(n).node; }
  static std::string name(std::uint32_t n);
  static PeerId id(std::uint32_t n);

  // A client asks node n, which runs. Its tokens must be FakeCompute::reference() up to the first
  // stop id, whatever is preempted meanwhile.
  void submit(std::uint32_t n, pipeline::GenerateParams params, ClientHabits habits = {});
  // A random request: short, perhaps with a stop id, a prompt that begins as others do, penalties
  // or log-probabilities; unless `plain` also long prompts and clients that leave.
  void submit_random(std::uint32_t n, Prng& random, bool plain = false);
  std::size_t open_requests() const { return requests_.open_count(); }

  // "" when every running node sees the others, follows one plan and has a route; else why not.
  std::string state() const;
  // Runs until state() has been "" for a second; whether that happened within `limit`.
  bool settle(Duration limit);
  // Runs until no request is open; whether that happened within `limit`.
  bool drain(Duration limit);

  // What must hold at any moment: pages, memory, tables, epochs, and that no open request has stood
  // still for so long.
  void check_running();
  // What must hold when nothing runs any more: routes, records, no pages in use, no sequences,
  // nobody waiting.
  void check_idle();
  // At the end of the run.
  void finish() { requests_.finish(); }
  // The last events of every node, oldest first.
  std::vector<std::string> recent(std::size_t per_node) const;

 private:
  class Client;
  struct Machine {
    std::uint64_t lives = 0;
    std::unique_ptr<Host> host;
    std::unique_ptr<env::Transport> transport;
    std::unique_ptr<env::Env> env;
    std::unique_ptr<membership::FakeVerifier> verifier;
    std::unique_ptr<engine::Compute> compute;
    std::unique_ptr<node::MeshNode> node;
    env::TimerHandle opening;             // the model's files are being read
    std::deque<std::string> last_events;  // of earlier lives
  };
  node::NodeConfig config(std::uint32_t n) const;
  static void add_lives(ClientCounts& counts, const pipeline::Driver& driver);
  void open_model(std::uint32_t n);

  FullMeshOptions options_;
  World world_;
  SimNetwork network_;
  Violations violations_;
  RequestChecker requests_{violations_};
  EpochChecker epochs_{violations_};
  FakeComputeConfig compute_;
  scheduler::ModelCost cost_;
  ClientCounts counts_;
  std::map<std::uint32_t, Machine> machines_;
  std::vector<std::shared_ptr<Client>> clients_;  // those whose request is open, and some more
};

}  // namespace mesh::sim
