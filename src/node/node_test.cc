#include <gtest/gtest.h>

#include <memory>

#include "base/limits.h"
#include "env/blocking_pool.h"
#include "env/manual_loop.h"
#include "env/memory_transport.h"
#include "membership/fake_verifier.h"
#include "node/mesh_node.h"
#include "node/serving.h"
#include "pipeline/test_compute.h"

namespace mesh::node {
namespace {

using pipeline::CountingRandom;
using pipeline::kTestShape;
using pipeline::RecordingSink;
using pipeline::TestCompute;

const std::string kCluster(32, 'k');

LocalModel test_model() {
  LocalModel model;
  model.identity.name = "test";
  model.identity.fingerprint = 77;
  model.identity.layers = kTestShape.layers;
  model.identity.hidden = 4;
  model.identity.context = kTestShape.context;
  model.identity.vocabulary = kTestShape.vocabulary;
  model.cost.layer_bytes.assign(kTestShape.layers, 100);
  model.cost.embedding_bytes = model.cost.head_bytes = 10;
  model.cost.kv_bytes_per_layer = 10;
  return model;
}

// Several nodes on one manual loop. Node n listens at n:1 and has node 1 as its seed.
class Mesh {
 public:
  struct Node {
    explicit Node(PeerId id) : verifier(id, kCluster) {}
    membership::FakeVerifier verifier;
    CountingRandom random;
    NullEvents events;
    metrics::Registry metrics;
    std::unique_ptr<env::MemoryTransport> transport;
    TestCompute compute;
    std::vector<std::pair<std::string, bool>> refused;
    std::unique_ptr<env::Env> env;
    std::unique_ptr<MeshNode> mesh;
  };

  Node& add(char letter, const std::function<void(NodeConfig&)>& change = {},
            const std::string& cluster = kCluster) {
    const PeerId id = pipeline::test_peer(letter);
    auto node = std::make_unique<Node>(id);
    node->verifier = membership::FakeVerifier(id, cluster);
    const env::Address address{std::string(1, letter), 1};
    node->transport = network_.attach(id, address, loop);
    node->env = std::make_unique<env::Env>(
        env::Env{loop, loop, loop, node->random, *node->transport, node->events, node->metrics});
    NodeConfig config;
    config.name = std::string(1, letter);
    config.certificate = membership::FakeVerifier::issue(cluster, id, std::int64_t{1} << 60);
    config.engine = {"1", "n1", 5};
    config.addresses = {address.to_string()};
    if (!nodes_.empty()) config.seeds = {env::Address{"a", 1}};
    config.memory_for_model = 1000;
    if (change) change(config);
    NodeHooks hooks;
    hooks.refused = [at = node.get()](const std::string& sentence, bool by_seed) {
      at->refused.emplace_back(sentence, by_seed);
    };
    node->mesh =
        std::make_unique<MeshNode>(*node->env, node->verifier, std::move(config), std::move(hooks));
    node->mesh->attach_model(test_model(), node->compute);
    node->mesh->start();
    nodes_.push_back(std::move(node));
    return *nodes_.back();
  }
  void lose(std::size_t index) {
    nodes_[index]->mesh.reset();
    nodes_[index]->transport.reset();
  }
  // Time passes; steps and loads end at once.
  void run(Duration time) {
    for (Duration gone{}; gone < time; gone += milliseconds(10)) {
      loop.advance(milliseconds(10));
      settle();
    }
  }
  void settle() {
    for (bool any = true; any;) {
      any = loop.run_ready();
      for (const auto& node : nodes_) any = (node->mesh && node->compute.finish_one()) || any;
    }
  }
  std::shared_ptr<RecordingSink> ask(Node& node, std::uint32_t tokens) {
    auto sink = std::make_shared<RecordingSink>();
    pipeline::GenerateParams params;
    params.prompt = {1, 2, 3};
    params.new_tokens_max = tokens;
    node.mesh->driver().start(std::move(params), sink);
    return sink;
  }

  env::ManualLoop loop;

 private:
  env::MemoryNetwork network_;
  std::vector<std::unique_ptr<Node>> nodes_;
};

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

GenerateRequest chat(std::string id) {
  GenerateRequest request;
  request.request_id = std::move(id);
  request.prompts.emplace_back(ChatPrompt{"[]", "", "", false});
  return request;
}

class RecordingGenerate final : public GenerateSink {
 public:
  void on_start(const Usage&) override {}
  void on_piece(std::uint32_t, Piece) override {}
  void on_choice_end(std::uint32_t, FinishReason, std::string) override {}
  void on_end(const Usage&, const Timings&) override { ++ends; }
  void on_error(const Error& why) override {
    ++ends;
    error = why;
  }
  int ends = 0;
  std::optional<Error> error;
};

TEST(ServingTest, EveryRequestIsAnsweredBeforeTheModelIsThereAndAfterTheEnd) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a');
  env::BlockingPool pool(1);
  Serving serving(*a.env, *a.mesh, pool);
  auto early = std::make_shared<RecordingGenerate>();
  serving.generate(chat("r1"), early);
  EXPECT_EQ(early->ends, 0) << "never from within generate()";
  mesh.settle();
  EXPECT_EQ(early->error->code, Code::kUnavailable);
  mesh.run(seconds(1));
  auto without_text = std::make_shared<RecordingGenerate>();
  serving.generate(chat("r2"), without_text);
  mesh.settle();
  EXPECT_NE(without_text->error->message.find("still being loaded"), std::string::npos);
  serving.cancel("unknown");
  serving.shut_down(Error(Code::kUnavailable, "stopping"));
  auto late = std::make_shared<RecordingGenerate>();
  serving.generate(chat("r3"), late);
  mesh.settle();
  EXPECT_EQ(late->error->message, "stopping");
}

TEST(ServingTest, StopAdmittingRefusesWhatComesLater) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a');
  mesh.run(seconds(1));
  env::BlockingPool pool(1);
  Serving serving(*a.env, *a.mesh, pool);
  EXPECT_TRUE(serving.idle());
  serving.stop_admitting(Error(Code::kUnavailable, "shutting down", true));
  auto late = std::make_shared<RecordingGenerate>();
  serving.generate(chat("r1"), late);
  mesh.settle();
  EXPECT_EQ(late->error->message, "shutting down");
  EXPECT_TRUE(serving.idle());
}

TEST(ServingTest, MayBeDestroyedWithAnswersUnderWay) {
  Mesh mesh;
  Mesh::Node& a = mesh.add('a');
  env::BlockingPool pool(1);
  auto serving = std::make_unique<Serving>(*a.env, *a.mesh, pool);
  auto sink = std::make_shared<RecordingGenerate>();
  serving->generate(chat("r1"), sink);
  serving.reset();
  mesh.settle();
  EXPECT_EQ(sink->ends, 0);
}

}  // namespace
}  // namespace mesh::node
