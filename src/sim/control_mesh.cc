#include "sim/control_mesh.h"

namespace mesh::sim {

ControlMesh::~ControlMesh() {
  for (auto& [name, machine] : machines_) {
    machine.node.reset();
    machine.transport.reset();
  }
}

void ControlMesh::define(ControlConfig config) {
  const std::string name = config.name;
  machines_[name].config = std::move(config);
}

void ControlMesh::start(const std::string& name, ControlNode::OnChange on_change) {
  Machine& machine = machines_.at(name);
  MESH_CHECK(machine.node == nullptr, "{} runs already", name);
  const std::uint64_t life = ++machine.lives;
  machine.host = std::make_unique<Host>(world_, name, splitmix64(seed_ ^ fnv1a64(name)) + life);
  machine.transport = network_.attach(*machine.host, machine.config.id, machine.config.address);
  Host& host = *machine.host;
  machine.node = std::make_unique<ControlNode>(
      env::Env{host, host, host, host, *machine.transport, host, host.metrics()}, machine.config,
      std::move(on_change));
  machine.node->start();
}

void ControlMesh::crash(const std::string& name, bool silent) {
  Machine& machine = machines_.at(name);
  if (silent) network_.silence(machine.config.id);
  machine.node.reset();
  machine.transport.reset();
  machine.host.reset();
}

std::vector<std::string> ControlMesh::names() const {
  std::vector<std::string> out;
  for (const auto& [name, machine] : machines_) out.push_back(name);
  return out;
}

bool ControlMesh::converged() const {
  return state().empty();
}

std::string ControlMesh::state() const {
  const ControlNode* first = nullptr;
  std::size_t running = 0;
  for (const auto& [name, machine] : machines_) running += machine.node != nullptr;
  for (const auto& [name, machine] : machines_) {
    if (machine.node == nullptr) continue;
    const ControlNode& node = *machine.node;
    std::size_t alive = 0;
    for (const auto& [peer, member] : node.membership().members()) alive += member.alive;
    if (alive + 1 != running)
      return fmt::format("{} sees {} of {} others", name, alive, running - 1);
    if (first == nullptr) first = &node;
    if (!(node.membership().plan() == first->membership().plan()))
      return fmt::format("{} has plan {}, not {}", name, node.membership().plan().epoch.value,
                         first->membership().plan().epoch.value);
    if (const auto route = node.route(); !route.ok())
      return fmt::format("{}: {}", name, route.error().message);
  }
  return first == nullptr ? "nothing runs" : "";
}

PeerId ControlMesh::id(std::uint32_t n) {
  PeerId id;
  id.bytes[0] = static_cast<std::uint8_t>(n >> 8);
  id.bytes[1] = static_cast<std::uint8_t>(n);
  id.bytes[31] = 1;
  return id;
}

ControlConfig ControlMesh::uniform(std::uint32_t n, std::uint32_t layers) {
  ControlConfig config;
  config.id = id(n);
  config.name = fmt::format("n{:04}", n);
  config.address = {fmt::format("10.0.{}.{}", n >> 8, n & 255), 8643};
  if (n != 1) config.seeds = {{"10.0.0.1", 8643}};
  config.model = wire::ModelIdentity{"pocket", 0x12AB, layers, 128, 4096, 1024};
  config.cost.layer_bytes.assign(layers, 100);
  config.memory = 100ull * layers;
  return config;
}

}  // namespace mesh::sim
