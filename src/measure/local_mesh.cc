#include "measure/local_mesh.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "backends/backends.h"
#include "base/random.h"
#include "base/version.h"
#include "engine/engine_compute.h"
#include "env/real_loop.h"
#include "env/system_random.h"
#include "measure/real_time.h"
#include "net/cluster_key.h"
#include "net/io_thread.h"
#include "net/tls_transport.h"
#include "node/credentials.h"
#include "node/machine.h"
#include "node/mesh_node.h"
#include "node/model_catalog.h"
#include "scheduler/layer_allocation.h"
#include "topology/topology.h"

namespace mesh::measure {
namespace {

constexpr std::chrono::seconds kPatience{600};  // a big model is read from a slow disk

// One cluster for all meshes of the process.
const net::ClusterKey& cluster() {
  static const net::ClusterKey key = net::ClusterKey::generate();
  return key;
}

}  // namespace

Result<std::vector<LayerRange>> planned_stages(formats::ModelFiles files, std::size_t nodes) {
  MESH_ASSIGN_OR_RETURN(const node::OpenedModel model, node::describe_model(std::move(files)));
  std::vector<scheduler::NodeCapacity> capacities(nodes);
  for (std::size_t i = 0; i < nodes; ++i) {
    capacities[i].id.bytes[0] = static_cast<std::uint8_t>(i);
    capacities[i].memory = node::available_memory();
  }
  MESH_ASSIGN_OR_RETURN(const auto stages,
                        scheduler::allocate_layers(model.local.cost, capacities));
  std::vector<LayerRange> ranges;
  for (const auto& stage : stages) ranges.push_back(stage.layers);
  return ranges;
}

// Members are destroyed in reverse order; what uses the loop is let go on it before it ends.
struct LocalMesh::Node {
  Node() : credentials(node::Credentials::temporary(cluster())) {}
  ~Node() {
    run_on(loop, [this] {
      node.reset();
      compute.reset();
    });
    loop.stop();
    transport.reset();
  }

  env::RealLoop loop;
  NullEvents events;
  env::SystemRandom random;
  metrics::Registry metrics;
  std::unique_ptr<node::Credentials> credentials;
  net::IoThread io;
  std::unique_ptr<TimedTransport> transport;
  std::uint16_t port = 0;
  std::unique_ptr<env::Env> env;
  ops::BackendInfo backend;
  std::unique_ptr<TimedCompute> compute;
  std::unique_ptr<node::MeshNode> node;
};

Result<void> LocalMesh::add_node(const LocalMeshOptions& options, std::size_t index,
                                 std::size_t count) {
  auto owned = std::make_unique<Node>();
  Node& n = *owned;
  n.loop.start();
  nodes_.push_back(std::move(owned));
  auto tls = std::make_unique<net::TlsTransport>(n.io, n.loop, n.events, n.credentials->identity());
  MESH_ASSIGN_OR_RETURN(n.port, tls->listen("127.0.0.1", 0));
  n.transport = std::make_unique<TimedTransport>(std::move(tls), hops_);
  n.env = std::make_unique<env::Env>(
      env::Env{n.loop, n.loop, n.loop, n.random, *n.transport, n.events, n.metrics});

  MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, options.model());
  MESH_ASSIGN_OR_RETURN(node::OpenedModel model, node::describe_model(std::move(files)));
  backends::BackendOptions backend_options;
  backend_options.threads = options.threads;
  backend_options.isa = options.isa;
  MESH_ASSIGN_OR_RETURN(auto backend, backends::make_backend("cpu", backend_options));
  n.backend = backend->info();

  node::NodeConfig config;
  config.name = fmt::format("stage {}", index);
  config.certificate = n.credentials->own_certificate(n.loop.unix_milliseconds());
  config.engine = {std::string(engine_version()), n.backend.numeric_class, backend->self_test()};
  config.addresses = {env::Address{"127.0.0.1", n.port}.to_string()};
  if (index > 0) config.seeds = {env::Address{"127.0.0.1", nodes_.front()->port}};
  config.pinned = options.stages.empty() ? LayerRange{0, model.spec.layers} : options.stages[index];
  config.share = {node::machine_number(),
                  static_cast<std::uint32_t>(topology::this_machine().cores()),
                  static_cast<std::uint32_t>(options.threads)};
  config.memory_for_model = node::available_memory();
  config.min_nodes = static_cast<std::uint32_t>(count);

  engine::EngineOptions engine_options;
  engine_options.stage.pages = options.pages;
  engine_options.now = [] { return now(); };
  Result<void> made;
  run_on(n.loop, [&] {
    auto engine = engine::EngineCompute::make(std::move(backend), std::move(model.files), n.loop,
                                              std::move(engine_options));
    if (!engine.ok()) {
      made = engine.error();
      return;
    }
    n.compute = std::make_unique<TimedCompute>(std::move(*engine));
    n.node = std::make_unique<node::MeshNode>(*n.env, *n.credentials, std::move(config));
    n.node->attach_model(std::move(model.local), *n.compute);
    n.node->start();
  });
  return made;
}

Result<void> LocalMesh::wait_route() {
  const Instant deadline = now() + kPatience;
  Node& entry = *nodes_.front();
  std::string why = "none was asked for";
  while (now() < deadline) {
    bool ready = false;
    run_on(entry.loop, [&] {
      const auto route = entry.node->choose_route();
      ready = route.ok() && route->stages.size() == nodes_.size();
      if (!route.ok()) why = route.error().message;
    });
    for (const auto& n : nodes_)
      if (const auto failed = n->compute->load_error()) return *failed;
    if (ready) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return Error(Code::kDeadlineExceeded, "no route: " + why);
}

Result<std::unique_ptr<LocalMesh>> LocalMesh::start(const LocalMeshOptions& options) {
  const Instant begin = now();
  std::unique_ptr<LocalMesh> mesh(new LocalMesh());
  const std::size_t count = options.stages.empty() ? 1 : options.stages.size();
  for (std::size_t i = 0; i < count; ++i) MESH_RETURN_IF_ERROR(mesh->add_node(options, i, count));
  MESH_RETURN_IF_ERROR(mesh->wait_route());
  mesh->load_time_ = now() - begin;
  return mesh;
}

LocalMesh::~LocalMesh() = default;

LocalMesh::Running LocalMesh::ask(std::uint32_t prompt_tokens, std::uint32_t new_tokens,
                                  std::uint64_t number) {
  pipeline::GenerateParams params;
  Prng random(number);
  for (std::uint32_t i = 0; i < prompt_tokens; ++i)
    params.prompt.push_back(static_cast<TokenId>(random.below(shape().vocabulary)));
  params.new_tokens_max = new_tokens;
  Running running{{}, std::make_shared<Stream>()};
  Node& entry = *nodes_.front();
  run_on(entry.loop,
         [&] { running.sequence = entry.node->driver().start(std::move(params), running.stream); });
  return running;
}

void LocalMesh::cancel(SequenceId sequence) {
  Node& entry = *nodes_.front();
  run_on(entry.loop, [&] { entry.node->driver().cancel(sequence); });
}

std::vector<StepRecord> LocalMesh::records(std::size_t stage) const {
  return nodes_.at(stage)->compute->records();
}

std::vector<HopRecord> LocalMesh::hops() const {
  return hops_->records();
}

engine::ComputeShape LocalMesh::shape() const {
  return nodes_.front()->compute->shape();
}

ops::BackendInfo LocalMesh::backend() const {
  return nodes_.front()->backend;
}

std::uint64_t LocalMesh::source_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& n : nodes_) bytes += n->compute->bytes_loaded();
  return bytes;
}

}  // namespace mesh::measure
