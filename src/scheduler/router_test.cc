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

}  // namespace
}  // namespace mesh::scheduler
