#include "scheduler/planner.h"

#include <gtest/gtest.h>

#include "base/limits.h"

namespace mesh::scheduler {
namespace {

PeerId id(std::uint8_t n) {
  PeerId peer;
  peer.bytes.fill(n);
  return peer;
}

Instant at_ms(std::int64_t ms) {
  return Instant(milliseconds(ms));
}

const std::optional<wire::ModelIdentity> kModel =
    wire::ModelIdentity{"pocket", 0x12AB, 6, 128, 4096, 1024};

NodeView node(std::uint8_t n) {
  NodeView view;
  view.record.node = id(n);
  view.record.name = std::string(1, static_cast<char>('a' + n - 1));
  view.record.model = kModel;
  view.record.willing = true;
  view.record.memory_for_model = 1000;
  view.record.state = wire::NodeState::kWaiting;
  view.alive = true;
  return view;
}

struct Fixture {
  explicit Fixture(std::uint8_t self, std::uint32_t min_nodes = 1)
      : planner({id(self), min_nodes}) {
    cost.layer_bytes.assign(6, 100);
  }
  // Steps until the view has settled.
  std::optional<wire::Plan> settle() {
    if (auto early = step()) return early;
    now += limits::kReplanSettle;
    return step();
  }
  std::optional<wire::Plan> step() {
    auto made = planner.step(now, {nodes, plan, model, &cost});
    if (made) plan = *made;
    return made;
  }
  Planner planner;
  Nodes nodes;
  wire::Plan plan;
  std::optional<wire::ModelIdentity> model = kModel;
  ModelCost cost;
  Instant now = at_ms(1000);
};

std::string show(const std::optional<wire::Plan>& plan) {
  if (!plan) return "none";
  std::string text = fmt::format("epoch {}", plan->epoch.value);
  for (const auto& stage : plan->stages)
    text += fmt::format(" {}={}", stage.node.bytes[0], stage.layers.to_string());
  return text;
}

TEST(Planner, WaitsForTheViewToSettle) {
  Fixture f(1);
  f.nodes = {node(1)};
  EXPECT_FALSE(f.step());
  EXPECT_EQ(f.planner.wake_at(), at_ms(1300));
  f.now = at_ms(1200);
  f.nodes.push_back(node(2));
  EXPECT_FALSE(f.step());
  EXPECT_EQ(f.planner.wake_at(), at_ms(1500)) << "the view has changed";
  f.now = at_ms(1499);
  EXPECT_FALSE(f.step());
  f.now = at_ms(1500);
  EXPECT_EQ(show(f.step()), "epoch 1 1=0:3 2=3:6");
  EXPECT_TRUE(f.planner.is_planner());
  EXPECT_FALSE(f.settle()) << "the plan fits";
  EXPECT_EQ(f.planner.waiting_for(), "");
}

// Nodes 1 and 2 do not see each other, node 3 sees both and passes every plan on.
TEST(Planner, TheLargerIdYieldsToAPlannerThatItCannotSee) {
  Fixture first(1), second(2);
  first.nodes = {node(1), node(3)};
  second.nodes = {node(2), node(3)};
  int plans = 0;
  for (int ms = 0; ms < 60'000; ms += 10) {
    for (Fixture* f : {&first, &second}) {
      Fixture& other = f == &first ? second : first;
      f->now = at_ms(1000 + ms);
      if (!f->step()) continue;
      ++plans;
      other.plan = f->plan;
    }
  }
  // 300 ms, 600 ms … 38.4 s: eight plans of node 2, each answered once.
  EXPECT_LE(plans, 20);
  EXPECT_GE(plans, 4) << "each of them does plan";
  EXPECT_EQ(first.plan.planner, id(1));
  // A view that changes ends the contest.
  second.nodes = {node(2), node(3), node(4)};
  second.plan = first.plan;
  EXPECT_TRUE(second.settle());
}

TEST(Planner, OnlyTheLowestIdActs) {
  Fixture f(2);
  f.nodes = {node(2), node(1)};
  EXPECT_FALSE(f.settle());
  EXPECT_FALSE(f.planner.is_planner());
  f.nodes[1].alive = false;
  EXPECT_EQ(show(f.settle()), "epoch 1 2=0:6");
}

TEST(Planner, WaitsForMinNodesBeforeTheFirstPlanOnly) {
  Fixture f(1, 3);
  f.nodes = {node(1), node(2)};
  EXPECT_FALSE(f.settle());
  EXPECT_EQ(f.planner.waiting_for(), "waiting for 1 of 3 nodes with pocket");
  EXPECT_EQ(f.planner.wake_at(), Instant::max());
  f.nodes.push_back(node(3));
  EXPECT_EQ(show(f.settle()), "epoch 1 1=0:2 2=2:4 3=4:6");
  f.nodes.pop_back();
  EXPECT_EQ(show(f.settle()), "epoch 2 1=0:3 2=3:6");
}

TEST(Planner, ReplansWhenNodesComeAndGo) {
  Fixture f(1);
  f.nodes = {node(1), node(2)};
  EXPECT_EQ(show(f.settle()), "epoch 1 1=0:3 2=3:6");
  f.nodes.push_back(node(3));
  EXPECT_EQ(show(f.settle()), "epoch 2 1=0:2 2=2:4 3=4:6");
  f.nodes[1].record.state = wire::NodeState::kFailed;
  EXPECT_EQ(show(f.settle()), "epoch 3 1=0:3 3=3:6");
  f.nodes[1].record.state = wire::NodeState::kDraining;
  EXPECT_FALSE(f.settle());
  f.nodes[2].alive = false;
  EXPECT_EQ(show(f.settle()), "epoch 4 1=0:6");
}

TEST(Planner, ADrainingPlannerHandsOver) {
  Fixture f(2);
  f.nodes = {node(1), node(2)};
  f.plan = {Epoch{1}, id(1), 0x12AB, 6, {{id(1), {0, 3}}, {id(2), {3, 6}}}};
  EXPECT_FALSE(f.settle());
  f.nodes[0].record.state = wire::NodeState::kDraining;
  EXPECT_EQ(show(f.settle()), "epoch 2 2=0:6");
}

TEST(Planner, NodesThatMayNotHoldLayersAreLeftOut) {
  Fixture f(1);
  f.nodes = {node(1), node(2), node(3), node(4)};
  f.nodes[1].record.willing = false;
  f.nodes[2].record.model.reset();
  f.nodes[3].record.model->fingerprint = 1;
  EXPECT_EQ(show(f.settle()), "epoch 1 1=0:6");
}

TEST(Planner, SpareNodesDoNotCauseNewPlans) {
  Fixture f(1);
  for (std::uint8_t n = 1; n <= 8; ++n) f.nodes.push_back(node(n));
  EXPECT_EQ(show(f.settle()), "epoch 1 1=0:1 2=1:2 3=2:3 4=3:4 5=4:5 6=5:6");
  EXPECT_FALSE(f.settle());
  f.nodes.pop_back();
  EXPECT_FALSE(f.settle());
}

TEST(Planner, AnotherModelIsPlannedAnew) {
  Fixture f(1);
  f.nodes = {node(1)};
  EXPECT_EQ(show(f.settle()), "epoch 1 1=0:6");
  f.model->fingerprint = f.nodes[0].record.model->fingerprint = 0x34CD;
  const auto plan = f.settle();
  EXPECT_EQ(show(plan), "epoch 2 1=0:6");
  EXPECT_EQ(plan->fingerprint, 0x34CDu);
}

TEST(Planner, EpochsGoOnFromTheNewestSeen) {
  Fixture f(1);
  f.nodes = {node(1)};
  f.plan = {Epoch{41}, id(9), 0x12AB, 6, {{id(9), {0, 6}}}};
  EXPECT_EQ(show(f.settle()), "epoch 42 1=0:6");
}

TEST(Planner, AGonePinnedNodeLeavesAGapThatIsNamed) {
  Fixture f(1);
  f.nodes = {node(1), node(2)};
  f.nodes[0].record.pinned = LayerRange{0, 3};
  f.nodes[1].record.pinned = LayerRange{3, 6};
  EXPECT_EQ(show(f.settle()), "epoch 1 1=0:3 2=3:6");
  f.nodes[1].alive = false;
  EXPECT_EQ(show(f.settle()), "epoch 2 1=0:3");
  EXPECT_EQ(f.planner.waiting_for(), "no node holds layers 3:6");
  EXPECT_FALSE(f.settle());
  f.nodes[1].alive = true;
  EXPECT_EQ(show(f.settle()), "epoch 3 1=0:3 2=3:6");
}

TEST(Planner, TooLittleMemoryIsExplained) {
  Fixture f(1);
  f.nodes = {node(1)};
  f.nodes[0].record.memory_for_model = 400;
  EXPECT_FALSE(f.settle());
  EXPECT_EQ(f.planner.waiting_for(),
            "the model needs 600 bytes, 1 nodes offer 400: 200 bytes are missing");
  f.nodes.push_back(node(2));
  EXPECT_EQ(show(f.settle()), "epoch 1 1=0:2 2=2:6");
}

TEST(Planner, WithoutAModelItWaits) {
  Fixture f(1);
  f.nodes = {node(1)};
  f.model.reset();
  EXPECT_FALSE(f.settle());
  EXPECT_EQ(f.planner.waiting_for(), "waiting for a model");
}

}  // namespace
}  // namespace mesh::scheduler
