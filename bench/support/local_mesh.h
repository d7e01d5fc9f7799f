#pragma once
// Whole nodes in one process: the production class node::MeshNode with a real control loop, mutual
// TLS on loopback and the engine, over a random model in memory. No HTTP, no files.

#include <cstdint>
#include <memory>
#include <vector>

#include "bench/support/stream.h"
#include "bench/support/timed_compute.h"
#include "pipeline/driver.h"

namespace mesh::bench {

struct MeshOptions {
  std::vector<LayerRange> stages;  // one node each, in layer order
  int threads = 1;                 // of each node's engine
  std::uint32_t pages = 512;       // KV pages of each node, page 0 included
  std::uint64_t seed = 1;
};

// The model of every mesh here: llama, 8 layers, hidden 1024, context 8192, weights by a seed.
inline constexpr std::uint32_t kModelLayers = 8;
inline constexpr std::uint32_t kModelHidden = 1024;
// Its head is as much work as 2.2 layers.
inline constexpr std::uint32_t kModelVocabulary = 24576;

// The ranges that the planner gives to so many nodes of equal memory.
Result<std::vector<LayerRange>> planned_stages(std::size_t nodes);

class LocalMesh {
 public:
  // Starts the nodes and waits until the first one has a route through all. Errors: those of the
  // parts; deadline_exceeded with the reason why there is no route.
  static Result<std::unique_ptr<LocalMesh>> start(const MeshOptions& options);
  ~LocalMesh();
  LocalMesh(const LocalMesh&) = delete;
  LocalMesh& operator=(const LocalMesh&) = delete;

  // A greedy request at the first node; its prompt follows from `number`.
  struct Running {
    SequenceId sequence;
    std::shared_ptr<Stream> stream;
  };
  Running ask(std::uint32_t prompt_tokens, std::uint32_t new_tokens, std::uint64_t number);
  void cancel(SequenceId sequence);

  std::size_t stages() const { return nodes_.size(); }
  std::vector<StepRecord> records(std::size_t stage) const;
  std::size_t row_bytes() const;

 private:
  struct Node;
  LocalMesh() = default;
  Result<void> add_node(const MeshOptions& options, std::size_t index);
  Result<void> wait_route();

  std::vector<std::unique_ptr<Node>> nodes_;
};

}  // namespace mesh::bench
