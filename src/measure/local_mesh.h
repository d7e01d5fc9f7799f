#pragma once
// Whole nodes in one process: the production class node::MeshNode with a real control loop, mutual
// TLS on loopback and the engine. No HTTP, no files but the model's.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "formats/model_files.h"
#include "measure/stream.h"
#include "measure/timed_compute.h"
#include "measure/timed_transport.h"
#include "ops/ops.h"
#include "pipeline/driver.h"

namespace mesh::measure {

struct LocalMeshOptions {
  // Called once for each node. Every call must give the same model.
  std::function<Result<formats::ModelFiles>()> model;
  std::vector<LayerRange> stages;  // one node each, in layer order; empty: one node with all layers
  int threads = 1;                 // of each node's engine
  std::string isa;                 // "": the best
  std::uint32_t pages = 512;       // KV pages of each node, page 0 included
};

// The ranges that the planner gives to so many nodes that have as much memory as this machine.
// Errors: those of the model, resource_exhausted and the like of scheduler::allocate_layers().
Result<std::vector<LayerRange>> planned_stages(formats::ModelFiles files, std::size_t nodes);

class LocalMesh {
 public:
  // Starts the nodes and waits until the first one has a route through all. Errors: those of the
  // parts; deadline_exceeded with the reason why there is no route.
  static Result<std::unique_ptr<LocalMesh>> start(const LocalMeshOptions& options);
  ~LocalMesh();
  LocalMesh(const LocalMesh&) = delete;
  LocalMesh& operator=(const LocalMesh&) = delete;

  // A greedy request at the first node that runs to its last token; its prompt follows from
  // `number`.
  struct Running {
    SequenceId sequence;
    std::shared_ptr<Stream> stream;
  };
  Running ask(std::uint32_t prompt_tokens, std::uint32_t new_tokens, std::uint64_t number);
  void cancel(SequenceId sequence);

  std::size_t stages() const { return nodes_.size(); }
  std::vector<StepRecord> records(std::size_t stage) const;
  std::vector<HopRecord> hops() const;  // of decode frames, between any nodes
  engine::ComputeShape shape() const;
  ops::BackendInfo backend() const;                  // of the first node
  std::uint64_t source_bytes() const;                // of the weights held by all nodes
  Duration load_time() const { return load_time_; }  // from start() until there was a route

 private:
  struct Node;
  LocalMesh() = default;
  Result<void> add_node(const LocalMeshOptions& options, std::size_t index, std::size_t count);
  Result<void> wait_route();

  const std::shared_ptr<HopLedger> hops_ = std::make_shared<HopLedger>();
  std::vector<std::unique_ptr<Node>> nodes_;
  Duration load_time_{};
};

}  // namespace mesh::measure
