#pragma once
// Many ControlNodes in one World: start, crash, restart, and the questions that tests ask.

#include <map>
#include <memory>
#include <string>

#include "sim/control_node.h"
#include "sim/sim_network.h"

namespace mesh::sim {

class ControlMesh {
 public:
  explicit ControlMesh(std::uint64_t seed) : world_(seed), network_(world_), seed_(seed) {}
  ControlMesh(const ControlMesh&) = delete;
  ControlMesh& operator=(const ControlMesh&) = delete;
  ~ControlMesh();

  World& world() { return world_; }
  SimNetwork& network() { return network_; }

  // A node that is known by `config.name` and not started yet.
  void define(ControlConfig config);
  void start(const std::string& name, ControlNode::OnChange on_change = {});
  // Destroys the node; with `silent` its peers are not told.
  void crash(const std::string& name, bool silent = false);
  bool running(const std::string& name) const { return machines_.at(name).node != nullptr; }
  ControlNode& node(const std::string& name) { return *machines_.at(name).node; }
  ControlConfig& config(const std::string& name) { return machines_.at(name).config; }
  std::vector<std::string> names() const;

  // All running nodes are linked with each other, follow one plan, and every one of them can route.
  bool converged() const;
  // Why not, for the message of a failed test.
  std::string state() const;

  // Node number n of a uniform mesh: id from n, address 10.x.y.z:8643, 6 (or `layers`) layers of
  // 100 bytes, memory for all of them; joins by node 1.
  static ControlConfig uniform(std::uint32_t n, std::uint32_t layers = 6);
  static PeerId id(std::uint32_t n);

 private:
  struct Machine {
    ControlConfig config;
    std::uint64_t lives = 0;
    std::unique_ptr<Host> host;
    std::unique_ptr<env::Transport> transport;
    std::unique_ptr<ControlNode> node;
  };
  World world_;
  SimNetwork network_;
  std::uint64_t seed_;
  std::map<std::string, Machine> machines_;
};

}  // namespace mesh::sim
