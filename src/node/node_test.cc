#include <gtest/gtest.h>

#include <memory>

#include "node/machine.h"
#include "node/mesh_node.h"
#include "node/model_catalog.h"
#include "node/test_mesh.h"

namespace mesh::node {
namespace {

void two(NodeConfig& config) {
  config.min_nodes = 2;
}

TEST(MeshNodeTest, OneNodeServesAlone) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a');
  EXPECT_FALSE(a.mesh->choose_route().ok());
  mesh.run(seconds(1));
  ASSERT_TRUE(a.mesh->choose_route().ok());
  const auto sink = mesh.ask(a, 3);
  mesh.settle();
  EXPECT_EQ(sink->tokens, (std::vector<TokenId>{12, 13, 14}));
  EXPECT_EQ(sink->finish, wire::Finish::kLength);
  EXPECT_EQ(a.mesh->hop()->pages_used(), 0u);
}

TEST(MeshNodeTest, TwoNodesShareTheLayersAndEitherMayBeAsked) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a', two);
  Mesh::Node& b = mesh.add('b', two);
  mesh.run(seconds(3));
  for (Mesh::Node* node : {&a, &b}) {
    const auto route = node->mesh->choose_route();
    ASSERT_TRUE(route.ok()) << route.error().message;
    EXPECT_EQ(route->stages.size(), 2u);
    EXPECT_EQ(node->mesh->positions_max(*route), kTestShape.context);
    const auto sink = mesh.ask(*node, 4);
    mesh.settle();
    EXPECT_EQ(sink->tokens, (std::vector<TokenId>{12, 13, 14, 15}));
    EXPECT_GT(node->compute.rows, 0u);
  }
  EXPECT_EQ(a.mesh->hop()->sequences() + b.mesh->hop()->sequences(), 0u);
}

TEST(MeshNodeTest, StreamsTravelTogetherThroughNodesOfOneMachine) {
  for (const bool shared : {true, false}) {
    Mesh mesh;
    const auto share = [&](NodeConfig& config) {
      two(config);
      config.share = {7, 2, shared ? 2u : 1u};
    };
    Mesh::Node& a = mesh.add('a', share);
    mesh.add('b', share);
    mesh.run(seconds(3));
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < 4; ++i) {
      sinks.push_back(mesh.ask(a, 20));
      mesh.loop.run_ready();
      a.compute.finish_one();
    }
    mesh.run(seconds(1));
    for (const auto& sink : sinks) EXPECT_EQ(sink->tokens.size(), 20u);
    EXPECT_EQ(a.mesh->hop()->micro_batches_max() == 1, shared);
  }
}

TEST(Machine, HasANumberOfItsOwn) {
  EXPECT_NE(machine_number(), 0u);
  EXPECT_EQ(machine_number(), machine_number());
}

TEST(MeshNodeTest, ALostNodeFailsItsRequestsAndTheRestTakesOver) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a', two);
  Mesh::Node& b = mesh.add('b', two);
  mesh.run(seconds(3));
  ASSERT_TRUE(a.mesh->choose_route().ok());
  const auto sink = mesh.ask(a, 100);
  mesh.loop.run_ready();
  EXPECT_EQ(sink->admissions, 1);
  (void)b;
  mesh.lose(1);
  mesh.run(seconds(5));
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, Code::kUnavailable);
  const auto route = a.mesh->choose_route();
  ASSERT_TRUE(route.ok()) << route.error().message;
  EXPECT_EQ(route->stages.size(), 1u);
  const auto again = mesh.ask(a, 2);
  mesh.settle();
  EXPECT_EQ(again->ends, 1);
  EXPECT_FALSE(again->error);
}

TEST(MeshNodeTest, PinnedLayersLeaveAGapThatIsNamed) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a', [](NodeConfig& config) { config.pinned = LayerRange{0, 4}; });
  mesh.run(seconds(2));
  const auto route = a.mesh->choose_route();
  ASSERT_FALSE(route.ok());
  EXPECT_NE(route.error().message.find("4:6"), std::string::npos) << route.error().message;
  EXPECT_EQ(a.mesh->status().missing, (std::vector<LayerRange>{{4, 6}}));
  mesh.add('b', [](NodeConfig& config) { config.pinned = LayerRange{4, 6}; });
  mesh.run(seconds(3));
  EXPECT_TRUE(a.mesh->choose_route().ok());
}

TEST(MeshNodeTest, ANodeWithoutLayersIsAnEntry) {
  Mesh mesh;
  mesh.add('a');
  Mesh::Node& b = mesh.add('b', [](NodeConfig& config) { config.willing = false; });
  mesh.run(seconds(3));
  EXPECT_TRUE(b.compute.loads.empty());
  const auto sink = mesh.ask(b, 2);
  mesh.settle();
  EXPECT_EQ(sink->tokens, (std::vector<TokenId>{12, 13}));
}

TEST(MeshNodeTest, ANodeThatLosesAllItsLayersIsSpareNotFailed) {
  Mesh mesh;
  // Alone, b holds everything; then two pinned nodes leave nothing for it.
  Mesh::Node& a = mesh.add('a');
  mesh.run(seconds(1));
  mesh.add('b', [](NodeConfig& config) { config.pinned = LayerRange{0, 3}; });
  mesh.add('c', [](NodeConfig& config) { config.pinned = LayerRange{3, 6}; });
  mesh.run(seconds(5));
  const auto route = a.mesh->choose_route();
  ASSERT_TRUE(route.ok()) << route.error().message;
  EXPECT_TRUE(a.compute.loads.back().empty());
  for (const NodeStatus& node : a.mesh->status().nodes) EXPECT_NE(node.state, "failed");
  const auto sink = mesh.ask(a, 2);
  mesh.settle();
  EXPECT_FALSE(sink->error);
  EXPECT_EQ(sink->tokens.size(), 2u);
}

TEST(MeshNodeTest, AFailedLoadIsSaidAndTheOthersTakeOver) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a', two);
  Mesh::Node& b = mesh.add('b', two);
  b.compute.fail_loads = true;
  mesh.run(seconds(5));
  const auto route = a.mesh->choose_route();
  ASSERT_TRUE(route.ok()) << route.error().message;
  EXPECT_EQ(route->stages.size(), 1u);
  bool said = false;
  for (const NodeStatus& node : a.mesh->status().nodes)
    said = said || (node.state == "failed" && node.problem == "no memory");
  EXPECT_TRUE(said);
}

TEST(MeshNodeTest, ARefusalBySomebodyWhoCameByIsNotOneByASeed) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a');
  Mesh::Node& stranger = mesh.add('s', {}, std::string(32, 'x'));
  mesh.run(seconds(1));
  ASSERT_FALSE(a.refused.empty());
  EXPECT_FALSE(a.refused[0].second);
  ASSERT_FALSE(stranger.refused.empty());
  EXPECT_TRUE(stranger.refused[0].second);
}

TEST(MeshNodeTest, ADrainingNodeEndsWhatRunsAndTheOthersTakeItsLayers) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a', two);
  Mesh::Node& b = mesh.add('b', two);
  mesh.run(seconds(3));
  ASSERT_EQ(a.mesh->choose_route()->stages.size(), 2u);
  const auto running = mesh.ask(a, 20);
  mesh.loop.run_ready();
  ASSERT_EQ(running->admissions, 1);
  const std::size_t loads = b.compute.loads.size();
  b.mesh->drain();
  EXPECT_FALSE(b.mesh->drained()) << "a sequence of another entry is here";
  const auto late = mesh.ask(b, 2);
  mesh.loop.run_ready();
  mesh.run(seconds(3));
  EXPECT_FALSE(running->error) << running->error->message;
  EXPECT_EQ(running->tokens.size(), 20u);
  EXPECT_EQ(late->ends, 1);
  EXPECT_TRUE(b.mesh->drained());
  EXPECT_EQ(b.compute.loads.size(), loads) << "it follows no plan any more";
  const auto route = a.mesh->choose_route();
  ASSERT_TRUE(route.ok()) << route.error().message;
  ASSERT_EQ(route->stages.size(), 1u);
  EXPECT_EQ(route->stages[0].node, pipeline::test_peer('a'));
  std::string state;
  for (const NodeStatus& node : a.mesh->status().nodes)
    if (node.id == pipeline::test_peer('b')) state = node.state;
  EXPECT_EQ(state, "draining") << "no plan brings it back";
  const auto again = mesh.ask(a, 2);
  mesh.settle();
  EXPECT_EQ(again->tokens.size(), 2u);
}

TEST(MeshNodeTest, ANodeThatDrainsAloneRefusesAndIsDrainedAtOnce) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a');
  mesh.run(seconds(1));
  a.mesh->drain();
  EXPECT_TRUE(a.mesh->drained());
  EXPECT_FALSE(a.mesh->choose_route().ok());
  mesh.run(seconds(2));
  EXPECT_FALSE(a.mesh->choose_route().ok()) << "it does not come back by itself";
}

TEST(MeshNodeTest, ADrainThatComesDuringALoadHolds) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a');
  for (int i = 0; i < 60; ++i) {
    mesh.loop.advance(milliseconds(10));
    mesh.loop.run_ready();
  }
  ASSERT_EQ(a.mesh->status().nodes[0].state, "loading");
  a.mesh->drain();
  mesh.settle();
  mesh.run(seconds(1));
  EXPECT_EQ(a.mesh->status().nodes[0].state, "draining");
}

// A node that takes its model from the mesh converts it as the mesh does.
TEST(ModelCatalog, FindsTheConversionThatTheMeshServes) {
  const auto plain = open_local_model("", {});
  const auto q8 = open_local_model("", {}, {.quantize = formats::Quantize::kQ8});
  ASSERT_TRUE(plain.ok() && q8.ok());
  EXPECT_EQ(q8->local.identity.name, "pocket:q8");
  EXPECT_NE(plain->local.identity.fingerprint, q8->local.identity.fingerprint);
  EXPECT_TRUE(plain->conversion.empty());
  EXPECT_NE(q8->conversion.find("converted to Q8_0"), std::string::npos);
  const auto found = find_mesh_model(q8->local.identity, {});
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(found->local.identity.fingerprint, q8->local.identity.fingerprint);
  wire::ModelIdentity other = q8->local.identity;
  other.name = "pocket:q4";
  EXPECT_EQ(find_mesh_model(other, {}).error().code, Code::kNotFound);
}

// So does the type of the KV cache, which no file names.
TEST(ModelCatalog, TheKvCacheIsPartOfTheModel) {
  const auto plain = open_local_model("", {});
  const auto same = open_local_model("", {}, {.kv_type = plain->spec.residual});
  const auto q8 = open_local_model("", {}, {.kv_type = ops::DType::kI8});
  ASSERT_TRUE(plain.ok() && same.ok() && q8.ok());
  EXPECT_EQ(same->local.identity, plain->local.identity);
  EXPECT_EQ(q8->local.identity.kv_dtype, "q8");
  EXPECT_NE(q8->local.identity.fingerprint, plain->local.identity.fingerprint);
  EXPECT_LT(q8->local.cost.kv_bytes_per_layer, plain->local.cost.kv_bytes_per_layer);
  const auto found = find_mesh_model(q8->local.identity, {});
  ASSERT_TRUE(found.ok()) << found.error().message;
  EXPECT_EQ(found->spec.kv, ops::DType::kI8);
  EXPECT_EQ(found->local.identity, q8->local.identity);
  wire::ModelIdentity later = q8->local.identity;
  later.kv_dtype = "q3";
  EXPECT_EQ(find_mesh_model(later, {}).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace mesh::node
