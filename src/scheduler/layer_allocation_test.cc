#include "scheduler/layer_allocation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "base/limits.h"
#include "base/random.h"

namespace mesh::scheduler {
namespace {

using Stages = std::vector<wire::StageAssignment>;

PeerId id(std::uint32_t n) {
  PeerId peer;
  peer.bytes[0] = static_cast<std::uint8_t>(n >> 8);
  peer.bytes[1] = static_cast<std::uint8_t>(n);
  return peer;
}

std::string show(const Stages& stages) {
  std::string text;
  for (const auto& stage : stages)
    text += fmt::format("{}{}={}", text.empty() ? "" : " ", stage.node.bytes[1],
                        stage.layers.to_string());
  return text;
}

ModelCost even(std::uint32_t layers, std::uint64_t bytes = 100) {
  ModelCost cost;
  cost.layer_bytes.assign(layers, bytes);
  return cost;
}

TEST(LayerAllocation, InProportionToMemory) {
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(1), 1000, {}}, {id(2), 1000, {}}})), "1=0:3 2=3:6");
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(2), 2000, {}}, {id(1), 1000, {}}})), "1=0:2 2=2:6");
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(1), 1000, {}}})), "1=0:6");
  EXPECT_EQ(
      show(*allocate_layers(even(6), {{id(1), 1000, {}}, {id(2), 1000, {}}, {id(3), 1000, {}}})),
      "1=0:2 2=2:4 3=4:6");
}

TEST(LayerAllocation, EmbeddingHeadAndKvNeedMemory) {
  ModelCost cost = even(6);
  cost.embedding_bytes = 200;
  cost.head_bytes = 30;
  cost.kv_bytes_per_layer = 50;
  EXPECT_EQ(cost.bytes({0, 2}), 500u);
  EXPECT_EQ(cost.bytes({2, 4}), 300u);
  EXPECT_EQ(cost.bytes({4, 6}), 330u);
  EXPECT_EQ(cost.bytes({}), 0u);
  EXPECT_EQ(show(*allocate_layers(cost, {{id(1), 640, {}}, {id(2), 640, {}}})), "1=0:2 2=2:6");
}

TEST(LayerAllocation, WorkIsWhatAStepReads) {
  ModelCost cost = even(6);
  cost.embedding_bytes = 1000;
  cost.kv_bytes_per_layer = 50;
  EXPECT_EQ(cost.work({0, 6}), 600u);
  const std::vector<NodeCapacity> two = {{id(1), 9000, {}}, {id(2), 9000, {}}};
  EXPECT_EQ(show(*allocate_layers(cost, two)), "1=0:3 2=3:6") << "a step reads rows of it";
  cost.head_bytes = 200;
  EXPECT_EQ(cost.work({0, 4}), 400u);
  EXPECT_EQ(cost.work({4, 6}), 400u);
  EXPECT_EQ(cost.work({}), 0u);
  EXPECT_EQ(show(*allocate_layers(cost, two)), "1=0:4 2=4:6");
  // A model of 28 layers with a tied head of ten times a layer, in the room of a long context each.
  cost = even(28);
  cost.embedding_bytes = cost.head_bytes = 1000;
  cost.kv_bytes_per_layer = 1000;
  const std::vector<NodeCapacity> large = {{id(1), 90000, {}}, {id(2), 90000, {}}};
  EXPECT_EQ(show(*allocate_layers(cost, large)), "1=0:19 2=19:28");
}

TEST(LayerAllocation, NeverOverAMemory) {
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(1), 100, {}}, {id(2), 9000, {}}})), "1=0:1 2=1:6");
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(1), 99, {}}, {id(2), 9000, {}}})), "2=0:6")
      << "too small for any layer";
}

TEST(LayerAllocation, MissingBytesAreNamed) {
  const auto result = allocate_layers(even(6), {{id(1), 250, {}}, {id(2), 100, {}}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, Code::kResourceExhausted);
  EXPECT_EQ(result.error().message,
            "the model needs 600 bytes, 2 nodes offer 350: 300 bytes are missing");
  EXPECT_FALSE(allocate_layers(even(6), {}).ok());
  EXPECT_FALSE(allocate_layers(even(0), {{id(1), 250, {}}}).ok());
}

TEST(LayerAllocation, MoreNodesThanLayers) {
  std::vector<NodeCapacity> nodes;
  for (std::uint32_t n = 1; n <= 100; ++n) nodes.push_back({id(n), 1000, {}});
  EXPECT_EQ(show(*allocate_layers(even(3), nodes)), "1=0:1 2=1:2 3=2:3");
  const auto many = allocate_layers(even(80), nodes);
  ASSERT_TRUE(many.ok());
  EXPECT_EQ(many->size(), limits::kRouteStages);
}

TEST(LayerAllocation, PinnedRangesAreKept) {
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(1), 1000, LayerRange{3, 6}}, {id(2), 1000, {}}})),
            "2=0:3 1=3:6");
  EXPECT_EQ(show(*allocate_layers(
                even(6), {{id(1), 1000, LayerRange{2, 4}}, {id(2), 1000, {}}, {id(3), 1000, {}}})),
            "2=0:2 1=2:4 3=4:6");
  EXPECT_EQ(show(*allocate_layers(
                even(6), {{id(1), 1000, LayerRange{0, 4}}, {id(2), 1000, LayerRange{2, 6}}})),
            "1=0:4 2=4:6")
      << "the lower id keeps what both want";
  EXPECT_EQ(show(*allocate_layers(
                even(6), {{id(1), 1000, LayerRange{0, 6}}, {id(2), 1000, LayerRange{2, 6}}})),
            "1=0:6");
}

TEST(LayerAllocation, AbsentPinnedNodesLeaveAGap) {
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(1), 1000, LayerRange{0, 3}}})), "1=0:3");
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(1), 1000, LayerRange{1, 2}}, {id(2), 1000, {}}})),
            "1=1:2 2=2:6")
      << "one node cannot fill two gaps";
}

TEST(LayerAllocation, APinnedRangeThatDoesNotFitIsNamed) {
  const auto result =
      allocate_layers(even(6), {{id(1), 250, LayerRange{0, 3}}, {id(2), 1000, LayerRange{3, 6}}});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("is pinned to layers 0:3, which need 300 bytes, and offers "
                                        "250: 50 bytes are missing"),
            std::string::npos)
      << result.error().message;
  EXPECT_EQ(show(*allocate_layers(even(6), {{id(1), 250, LayerRange{0, 3}}, {id(2), 1000, {}}})),
            "2=0:6");
}

TEST(LayerAllocation, HeldRangesStayWhereTheyAre) {
  const std::vector<NodeCapacity> three = {{id(1), 1000, {}}, {id(2), 1000, {}}, {id(3), 1000, {}}};
  // Against the order of ids.
  const Stages held = {{id(3), {0, 2}}, {id(1), {2, 4}}, {id(2), {4, 6}}};
  EXPECT_EQ(*allocate_layers(even(6), three, held), held);
  // A slightly unequal split is not worth moving a layer, a very unequal one is.
  const std::vector<NodeCapacity> two = {{id(1), 10000, {}}, {id(2), 10000, {}}};
  const Stages near = {{id(1), {0, 49}}, {id(2), {49, 100}}};
  EXPECT_EQ(*allocate_layers(even(100), two, near), near);
  const Stages far = {{id(1), {0, 10}}, {id(2), {10, 100}}};
  EXPECT_NE(*allocate_layers(even(100), two, far), far);
  // The middle one has gone: the others keep their ends.
  const auto after = allocate_layers(even(6), {{id(3), 1000, {}}, {id(2), 1000, {}}}, held);
  EXPECT_EQ(show(*after), "3=0:3 2=3:6");
}

// Every way to cut the layers over every order of every subset of the nodes.
bool feasible(const ModelCost& cost, std::vector<NodeCapacity> nodes) {
  std::sort(nodes.begin(), nodes.end(),
            [](const NodeCapacity& a, const NodeCapacity& b) { return a.id < b.id; });
  const std::function<bool(std::uint32_t, std::uint32_t)> cover = [&](std::uint32_t at,
                                                                      std::uint32_t used) {
    if (at == cost.layers()) return true;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if ((used >> i & 1) != 0) continue;
      for (std::uint32_t end = at + 1; end <= cost.layers(); ++end)
        if (cost.bytes({at, end}) <= nodes[i].memory && cover(end, used | 1u << i)) return true;
    }
    return false;
  };
  return cover(0, 0);
}

// Least sum of work² / memory with the nodes in this order, each at least one layer; negative:
// impossible.
double best_balance(const ModelCost& cost, const std::vector<NodeCapacity>& nodes,
                    std::uint32_t at = 0, std::size_t node = 0) {
  if (node == nodes.size()) return at == cost.layers() ? 0 : -1;
  double best = -1;
  for (std::uint32_t end = at + 1; end <= cost.layers(); ++end) {
    const auto bytes = cost.bytes({at, end});
    if (bytes > nodes[node].memory) break;
    const double rest = best_balance(cost, nodes, end, node + 1);
    if (rest < 0) continue;
    const double work = static_cast<double>(cost.work({at, end}));
    const double sum = rest + work * work / static_cast<double>(nodes[node].memory);
    if (best < 0 || sum < best) best = sum;
  }
  return best;
}

ModelCost random_cost(Prng& random) {
  ModelCost cost;
  const std::uint64_t layers = 1 + random.below(7);
  for (std::uint64_t i = 0; i < layers; ++i) cost.layer_bytes.push_back(1 + random.below(20));
  cost.embedding_bytes = random.below(20);
  cost.head_bytes = random.below(20);
  cost.kv_bytes_per_layer = random.below(4);
  return cost;
}

TEST(LayerAllocation, AgreesWithBruteForce) {
  int possible = 0, impossible = 0, balanced = 0;
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Prng random(seed);
    const ModelCost cost = random_cost(random);
    std::vector<NodeCapacity> nodes;
    const std::uint64_t count = 1 + random.below(4);
    for (std::uint32_t n = 0; n < count; ++n)
      nodes.push_back({id(n + 1), 5 + random.below(80), {}});
    const auto result = allocate_layers(cost, nodes);
    ASSERT_EQ(result.ok(), feasible(cost, nodes)) << (result.ok() ? show(*result) : "");
    if (!result.ok()) {
      ++impossible;
      continue;
    }
    ++possible;
    std::uint32_t next = 0;
    std::map<PeerId, bool> used;
    double balance = 0;
    for (const auto& stage : *result) {
      ASSERT_EQ(stage.layers.begin, next);
      ASSERT_FALSE(stage.layers.empty());
      ASSERT_TRUE(used.emplace(stage.node, true).second);
      const auto& node = *std::find_if(nodes.begin(), nodes.end(),
                                       [&](const auto& n) { return n.id == stage.node; });
      ASSERT_LE(cost.bytes(stage.layers), node.memory);
      const double work = static_cast<double>(cost.work(stage.layers));
      balance += work * work / static_cast<double>(node.memory);
      next = stage.layers.end;
    }
    ASSERT_EQ(next, cost.layers());
    ASSERT_EQ(*allocate_layers(cost, nodes, *result), *result) << show(*result);
    const double best = best_balance(cost, nodes);
    if (best >= 0) {
      ++balanced;
      EXPECT_EQ(result->size(), nodes.size()) << "every node that can have a part has one";
      EXPECT_LE(balance, best * (1 + 1e-9));
    }
  }
  EXPECT_GT(possible, 500);
  EXPECT_GT(impossible, 200);
  EXPECT_GT(balanced, 200);
}

TEST(LayerAllocation, PinnedPropertiesHold) {
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Prng random(seed);
    const ModelCost cost = random_cost(random);
    std::vector<NodeCapacity> nodes;
    const std::uint64_t count = 1 + random.below(5);
    for (std::uint32_t n = 0; n < count; ++n) {
      NodeCapacity node{id(n + 1), 20 + random.below(120), {}};
      if (random.below(2) == 0) {
        const auto begin = static_cast<std::uint32_t>(random.below(cost.layers()));
        const auto size = 1 + static_cast<std::uint32_t>(random.below(cost.layers() - begin));
        node.pinned = LayerRange{begin, begin + size};
      }
      nodes.push_back(node);
    }
    const auto result = allocate_layers(cost, nodes);
    if (!result.ok()) continue;
    std::uint32_t next = 0;
    bool gap = false;
    for (const auto& stage : *result) {
      ASSERT_GE(stage.layers.begin, next);
      gap = gap || stage.layers.begin != next;
      const auto& node = *std::find_if(nodes.begin(), nodes.end(),
                                       [&](const auto& n) { return n.id == stage.node; });
      ASSERT_LE(cost.bytes(stage.layers), node.memory);
      if (node.pinned) {
        ASSERT_GE(stage.layers.begin, node.pinned->begin);
        ASSERT_LE(stage.layers.end, node.pinned->end);
      }
      next = stage.layers.end;
    }
    gap = gap || next != cost.layers();
    const bool any_pinned =
        std::any_of(nodes.begin(), nodes.end(), [](const auto& n) { return n.pinned.has_value(); });
    ASSERT_TRUE(!gap || any_pinned);
    ASSERT_EQ(*allocate_layers(cost, nodes, *result), *result) << show(*result);
  }
}

}  // namespace
}  // namespace mesh::scheduler
