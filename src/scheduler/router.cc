#include "scheduler/router.h"

#include <algorithm>
#include <map>

namespace mesh::scheduler {
namespace {

const NodeView* find(const Nodes& nodes, PeerId id) {
  for (const NodeView& node : nodes)
    if (node.record.node == id) return &node;
  return nullptr;
}

bool serves(const NodeView* node, const wire::StageAssignment& stage, Epoch epoch) {
  return node != nullptr && node->alive && node->record.state == wire::NodeState::kReady &&
         node->record.epoch == epoch && node->record.layers.begin <= stage.layers.begin &&
         node->record.layers.end >= stage.layers.end;
}

std::string label(PeerId id, const NodeView* node) {
  if (node == nullptr || node->record.name.empty()) return "node " + id.short_name();
  return "node " + node->record.name;
}

// "node b is loading"
std::string why_not(const NodeView* node, const wire::StageAssignment& stage, Epoch epoch) {
  const std::string name = label(stage.node, node);
  if (node == nullptr || !node->alive) return name + " is gone";
  if (node->record.state != wire::NodeState::kReady)
    return fmt::format("{} is {}", name, state_name(node->record.state));
  if (node->record.epoch != epoch)
    return fmt::format("{} still serves plan {}, not {}", name, node->record.epoch.value,
                       epoch.value);
  return fmt::format("{} holds {}", name, node->record.layers.to_string());
}

bool is_for(const wire::Plan& plan, std::uint32_t layers) {
  return plan.epoch.value != 0 && plan.layers == layers;
}

}  // namespace

std::string_view state_name(wire::NodeState state) {
  switch (state) {
    case wire::NodeState::kJoining:
      return "joining";
    case wire::NodeState::kWaiting:
      return "waiting";
    case wire::NodeState::kLoading:
      return "loading";
    case wire::NodeState::kReady:
      return "ready";
    case wire::NodeState::kDraining:
      return "draining";
    case wire::NodeState::kFailed:
      return "failed";
  }
  return "unknown";
}

std::size_t stages_at_once(const std::vector<wire::StageAssignment>& stages, const Nodes& nodes) {
  struct Machine {
    std::uint64_t stages = 0, threads = 0, cores = 0;
  };
  std::map<std::uint64_t, Machine> shared;
  std::uint64_t at_once = 0;
  for (const wire::StageAssignment& stage : stages) {
    const NodeView* node = find(nodes, stage.node);
    if (node == nullptr || node->record.share.machine == 0) {
      ++at_once;
      continue;
    }
    const wire::MachineShare& share = node->record.share;
    Machine& machine = shared[share.machine];
    machine.stages += 1;
    machine.threads += std::max(share.threads, 1u);
    machine.cores = std::max<std::uint64_t>(machine.cores, share.cores);
  }
  for (const auto& [number, machine] : shared)
    at_once += std::clamp<std::uint64_t>(machine.stages * machine.cores / machine.threads, 1,
                                         machine.stages);
  return std::max<std::size_t>(at_once, 1);
}

std::vector<LayerRange> missing_layers(const wire::Plan& plan, const Nodes& nodes,
                                       std::uint32_t layers) {
  std::vector<LayerRange> missing;
  const auto add = [&](LayerRange range) {
    if (range.empty()) return;
    if (!missing.empty() && missing.back().end == range.begin)
      missing.back().end = range.end;
    else
      missing.push_back(range);
  };
  std::uint32_t next = 0;
  if (is_for(plan, layers)) {
    for (const wire::StageAssignment& stage : plan.stages) {
      add({next, stage.layers.begin});
      if (!serves(find(nodes, stage.node), stage, plan.epoch)) add(stage.layers);
      next = stage.layers.end;
    }
  }
  add({next, layers});
  return missing;
}

Result<std::vector<wire::StageAssignment>> route(const wire::Plan& plan, const Nodes& nodes,
                                                 std::uint32_t layers) {
  if (!is_for(plan, layers))
    return Error(Code::kUnavailable,
                 fmt::format("layers 0:{} have no ready node (there is no layer plan yet)", layers),
                 true);
  const std::vector<LayerRange> missing = missing_layers(plan, nodes, layers);
  if (missing.empty()) return plan.stages;
  std::string ranges, reasons;
  for (const LayerRange& range : missing) {
    ranges += (ranges.empty() ? "" : ", ") + range.to_string();
    std::uint32_t covered = range.begin;
    for (const wire::StageAssignment& stage : plan.stages) {
      if (stage.layers.begin < range.begin || stage.layers.end > range.end) continue;
      covered = stage.layers.begin == covered ? stage.layers.end : covered;
      reasons +=
          (reasons.empty() ? "" : ", ") + why_not(find(nodes, stage.node), stage, plan.epoch);
    }
    if (covered != range.end)
      reasons += (reasons.empty() ? "" : ", ") + std::string("no node has them");
  }
  return Error(Code::kUnavailable,
               fmt::format("layers {} have no ready node ({})", ranges, reasons), true);
}

}  // namespace mesh::scheduler
