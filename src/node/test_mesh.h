#pragma once
// For tests of this module: several nodes on one manual loop, without files or threads.

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "env/manual_loop.h"
#include "env/memory_transport.h"
#include "membership/fake_verifier.h"
#include "node/mesh_node.h"
#include "pipeline/test_compute.h"

namespace mesh::node {

using pipeline::CountingRandom;
using pipeline::kTestShape;
using pipeline::RecordingSink;
using pipeline::TestCompute;

inline const std::string kCluster(32, 'k');

inline LocalModel test_model() {
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

}  // namespace mesh::node
