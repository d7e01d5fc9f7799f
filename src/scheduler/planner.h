#pragma once
// The elected planner's decision: is a new plan needed, and which. Pure: every node runs it, only
// the lowest id acts.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "scheduler/layer_allocation.h"
#include "scheduler/node_view.h"
#include "wire/messages.h"

namespace mesh::scheduler {

struct PlannerConfig {
  PeerId self;
  std::uint32_t min_nodes =
      1;  // nodes with the model before the first plan; later plans take what is left
};

// One turn's view. The model is this node's own; without one it cannot plan.
struct PlannerInput {
  const Nodes& nodes;
  const wire::Plan& plan;  // newest known; epoch 0: none
  const std::optional<wire::ModelIdentity>& model;
  const ModelCost* cost = nullptr;  // of `model`; null while unknown
};

// Alive, willing, neither failed nor draining, and has the files of the model with `fingerprint`.
bool can_hold(const NodeView& node, std::uint64_t fingerprint);
// Lowest id among those; empty id when there is none.
PeerId elected_planner(const Nodes& nodes, std::uint64_t fingerprint);

// Control-loop only.
class Planner {
 public:
  explicit Planner(PlannerConfig config) : config_(config) {}
  // A plan to announce, with epoch one above the newest known, when this node is the planner, the
  // present plan does not fit the nodes (none yet, another model, a node gone or new) and the view
  // has been the same for limits::kReplanSettle. When two nodes that cannot see each other both
  // plan (a link between them is cut, a third one is linked with both), each new plan would answer
  // the other's at once, for ever: the larger id waits twice as long after every plan that overrode
  // its own, up to limits::kContestMax, until its view changes. Call on every change and at
  // wake_at().
  std::optional<wire::Plan> step(Instant now, const PlannerInput& input);
  // Next time step() could answer differently without a change; Instant::max(): never.
  Instant wake_at() const { return wake_at_; }
  // One sentence for people when there is no full plan ("" when there is).
  const std::string& waiting_for() const { return waiting_for_; }
  bool is_planner() const { return is_planner_; }

 private:
  struct Candidate {
    NodeCapacity capacity;
    friend bool operator==(const Candidate& a, const Candidate& b) {
      return a.capacity.id == b.capacity.id && a.capacity.pinned == b.capacity.pinned;
    }
  };
  bool fits(const std::vector<Candidate>& candidates, const wire::Plan& plan,
            const wire::ModelIdentity& model) const;
  std::optional<wire::Plan> make(const std::vector<Candidate>& candidates,
                                 const PlannerInput& input);

  PlannerConfig config_;
  std::vector<Candidate> seen_;  // of the last turn
  std::uint64_t seen_fingerprint_ = 0;
  Instant stable_since_{};
  Duration patience_{};  // how long the view must stand still before this node plans
  Epoch made_;           // newest plan of this node for the present view
  Instant wake_at_ = Instant::max();
  bool is_planner_ = false;
  std::string waiting_for_;
};

}  // namespace mesh::scheduler
