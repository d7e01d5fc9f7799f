#include "scheduler/router.h"

#include <gtest/gtest.h>

namespace mesh::scheduler {
namespace {

PeerId id(std::uint8_t n) {
  PeerId peer;
  peer.bytes.fill(n);
  return peer;
}

NodeView ready(std::uint8_t n, LayerRange layers) {
  NodeView view;
  view.record.node = id(n);
  view.record.name = std::string(1, static_cast<char>('a' + n - 1));
  view.record.state = wire::NodeState::kReady;
  view.record.epoch = Epoch{4};
  view.record.layers = layers;
  view.alive = true;
  return view;
}

const wire::Plan kPlan{Epoch{4}, id(1), 0x12AB, 6, {{id(1), {0, 3}}, {id(2), {3, 6}}}};

std::string problem(const wire::Plan& plan, const Nodes& nodes) {
  const auto result = route(plan, nodes, 6);
  if (result.ok()) return "ok";
  EXPECT_EQ(result.error().code, Code::kUnavailable);
  EXPECT_TRUE(result.error().retryable);
  return result.error().message;
}

TEST(Router, CoversAllLayers) {
  const Nodes nodes = {ready(2, {3, 6}), ready(1, {0, 3})};
  EXPECT_EQ(route(kPlan, nodes, 6).value(), kPlan.stages);
  EXPECT_TRUE(missing_layers(kPlan, nodes, 6).empty());
}

TEST(Router, ANodeMayHoldMoreThanItsStage) {
  EXPECT_EQ(problem(kPlan, {ready(1, {0, 6}), ready(2, {2, 6})}), "ok");
}

TEST(Router, SaysWhatIsMissingAndWhy) {
  Nodes nodes = {ready(1, {0, 3}), ready(2, {3, 6})};
  nodes[1].record.state = wire::NodeState::kLoading;
  EXPECT_EQ(problem(kPlan, nodes), "layers 3:6 have no ready node (node b is loading)");
  nodes[1] = ready(2, {3, 6});
  nodes[1].alive = false;
  EXPECT_EQ(problem(kPlan, nodes), "layers 3:6 have no ready node (node b is gone)");
  nodes[1] = ready(2, {3, 6});
  nodes[1].record.epoch = Epoch{3};
  EXPECT_EQ(problem(kPlan, nodes),
            "layers 3:6 have no ready node (node b still serves plan 3, not 4)");
  nodes[1] = ready(2, {4, 6});
  EXPECT_EQ(problem(kPlan, nodes), "layers 3:6 have no ready node (node b holds 4:6)");
  nodes[0].alive = false;
  EXPECT_EQ(problem(kPlan, nodes),
            "layers 0:6 have no ready node (node a is gone, node b holds 4:6)");
  EXPECT_EQ(problem(kPlan, {ready(1, {0, 3})}),
            "layers 3:6 have no ready node (node " + id(2).short_name() + " is gone)");
}

TEST(Router, GapsOfThePlanAreMissing) {
  wire::Plan plan = kPlan;
  plan.stages.pop_back();
  const Nodes nodes = {ready(1, {0, 3})};
  EXPECT_EQ(missing_layers(plan, nodes, 6), (std::vector<LayerRange>{{3, 6}}));
  EXPECT_EQ(problem(plan, nodes), "layers 3:6 have no ready node (no node has them)");
  plan.stages = {{id(1), {1, 2}}, {id(2), {4, 5}}};
  EXPECT_EQ(missing_layers(plan, {ready(1, {1, 2}), ready(2, {4, 5})}, 6),
            (std::vector<LayerRange>{{0, 1}, {2, 4}, {5, 6}}));
}

TEST(Router, WithoutAPlanNothingIsServed) {
  EXPECT_EQ(problem(wire::Plan{}, {}),
            "layers 0:6 have no ready node (there is no layer plan yet)");
  EXPECT_EQ(missing_layers(wire::Plan{}, {}, 6), (std::vector<LayerRange>{{0, 6}}));
  wire::Plan other = kPlan;
  other.layers = 7;
  EXPECT_NE(problem(other, {ready(1, {0, 3}), ready(2, {3, 6})}), "ok");
}

TEST(Router, StagesOfOneMachineShareItsCores) {
  const std::vector<wire::StageAssignment> stages = {
      {id(1), {0, 2}}, {id(2), {2, 4}}, {id(3), {4, 6}}};
  const auto at_once = [&](const std::vector<wire::MachineShare>& shares) {
    Nodes nodes = {ready(1, {0, 2}), ready(2, {2, 4}), ready(3, {4, 6})};
    for (std::size_t i = 0; i < shares.size(); ++i) nodes[i].record.share = shares[i];
    return stages_at_once(stages, nodes);
  };
  EXPECT_EQ(at_once({}), 3u);  // nothing is known
  EXPECT_EQ(at_once({{7, 4, 4}, {8, 4, 4}, {9, 4, 4}}), 3u);
  EXPECT_EQ(at_once({{7, 4, 4}, {7, 4, 4}, {9, 4, 4}}), 2u);
  EXPECT_EQ(at_once({{7, 4, 4}, {7, 4, 4}, {7, 4, 4}}), 1u);
  EXPECT_EQ(at_once({{7, 4, 1}, {7, 4, 1}, {7, 4, 1}}), 3u);  // a core for each
  EXPECT_EQ(at_once({{7, 2, 1}, {7, 2, 1}, {7, 2, 1}}), 2u);
  EXPECT_EQ(at_once({{7, 2, 1}, {7, 2, 1}, {}}), 3u);
  EXPECT_EQ(at_once({{7, 0, 0}, {7, 0, 0}, {7, 0, 0}}), 1u);  // as a confused peer may say
  EXPECT_EQ(at_once({{7, ~0u, ~0u}, {7, ~0u, ~0u}, {7, 1, ~0u}}), 1u);
  EXPECT_EQ(stages_at_once({}, {}), 1u);
}

}  // namespace
}  // namespace mesh::scheduler
