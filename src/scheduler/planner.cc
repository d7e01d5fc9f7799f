#include "scheduler/planner.h"

#include <algorithm>
#include <map>

#include "base/limits.h"

namespace mesh::scheduler {

bool can_hold(const NodeView& node, std::uint64_t fingerprint) {
  const wire::NodeRecord& record = node.record;
  return node.alive && record.willing && record.model && record.model->fingerprint == fingerprint &&
         record.state != wire::NodeState::kFailed && record.state != wire::NodeState::kDraining;
}

PeerId elected_planner(const Nodes& nodes, std::uint64_t fingerprint) {
  PeerId lowest;
  for (const NodeView& node : nodes)
    if (can_hold(node, fingerprint) && (lowest.empty() || node.record.node < lowest))
      lowest = node.record.node;
  return lowest;
}

bool Planner::fits(const std::vector<Candidate>& candidates, const wire::Plan& plan,
                   const wire::ModelIdentity& model) const {
  if (plan.epoch.value == 0 || plan.fingerprint != model.fingerprint ||
      plan.layers != model.layers || plan.stages.size() != candidates.size())
    return false;
  std::map<PeerId, LayerRange> held;
  for (const wire::StageAssignment& stage : plan.stages) held.emplace(stage.node, stage.layers);
  for (const Candidate& candidate : candidates) {
    const auto it = held.find(candidate.capacity.id);
    if (it == held.end()) return false;
    const auto& pinned = candidate.capacity.pinned;
    if (pinned && (it->second.begin < pinned->begin || it->second.end > pinned->end)) return false;
  }
  return true;
}

std::optional<wire::Plan> Planner::make(const std::vector<Candidate>& candidates,
                                        const PlannerInput& input) {
  std::vector<NodeCapacity> capacities;
  for (const Candidate& candidate : candidates) capacities.push_back(candidate.capacity);
  const bool same_model = input.plan.fingerprint == input.model->fingerprint;
  auto stages =
      allocate_layers(*input.cost, std::move(capacities),
                      same_model ? input.plan.stages : std::vector<wire::StageAssignment>{});
  if (!stages.ok()) {
    waiting_for_ = stages.error().message;
    return std::nullopt;
  }
  if (input.plan.epoch.value != 0 && same_model && input.plan.layers == input.model->layers &&
      input.plan.stages == *stages)
    return std::nullopt;  // who is left out stays out
  wire::Plan plan;
  plan.epoch = Epoch{input.plan.epoch.value + 1};
  plan.planner = config_.self;
  plan.fingerprint = input.model->fingerprint;
  plan.layers = input.model->layers;
  plan.stages = std::move(stages).value();
  return plan;
}

std::optional<wire::Plan> Planner::step(Instant now, const PlannerInput& input) {
  wake_at_ = Instant::max();
  is_planner_ = false;
  waiting_for_.clear();
  if (!input.model || input.cost == nullptr || input.cost->layers() != input.model->layers) {
    waiting_for_ = "waiting for a model";
    return std::nullopt;
  }
  const std::uint64_t fingerprint = input.model->fingerprint;
  std::vector<Candidate> candidates;
  for (const NodeView& node : input.nodes)
    if (can_hold(node, fingerprint))
      candidates.push_back({{node.record.node, node.record.memory_for_model, node.record.pinned}});
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.capacity.id < b.capacity.id; });
  if (candidates != seen_ || fingerprint != seen_fingerprint_) {
    seen_ = candidates;
    seen_fingerprint_ = fingerprint;
    stable_since_ = now;
    patience_ = limits::kReplanSettle;
    made_ = Epoch{};
  }
  if (made_.value != 0 && input.plan.epoch > made_ && input.plan.planner != config_.self) {
    if (input.plan.planner < config_.self)
      patience_ = std::min<Duration>(patience_ * 2, limits::kContestMax);
    stable_since_ = now;
    made_ = Epoch{};
  }
  is_planner_ = !candidates.empty() && candidates.front().capacity.id == config_.self;
  const bool first = input.plan.epoch.value == 0 || input.plan.fingerprint != fingerprint;
  if (candidates.empty() || (first && candidates.size() < config_.min_nodes)) {
    const std::size_t wanted = std::max<std::size_t>(1, config_.min_nodes);
    waiting_for_ = fmt::format("waiting for {} of {} nodes with {}", wanted - candidates.size(),
                               wanted, input.model->name);
    return std::nullopt;
  }
  std::optional<wire::Plan> plan;
  if (is_planner_ && !fits(candidates, input.plan, *input.model)) {
    if (now - stable_since_ < patience_)
      wake_at_ = stable_since_ + patience_;
    else
      plan = make(candidates, input);
    if (plan) made_ = plan->epoch;
  }
  if (waiting_for_.empty() && first && !plan) {
    waiting_for_ = "waiting for the planner";
  } else if (waiting_for_.empty()) {
    std::uint32_t next = 0;
    std::vector<wire::StageAssignment> stages = plan ? plan->stages : input.plan.stages;
    stages.push_back({PeerId{}, {input.model->layers, input.model->layers}});
    for (const wire::StageAssignment& stage : stages) {
      if (stage.layers.begin > next && waiting_for_.empty())
        waiting_for_ = fmt::format("no node holds layers {}:{}", next, stage.layers.begin);
      next = std::max(next, stage.layers.end);
    }
  }
  return plan;
}

}  // namespace mesh::scheduler
