#include "bench/support/local_mesh.h"

#include <chrono>
#include <thread>

#include "backends/backends.h"
#include "base/random.h"
#include "base/version.h"
#include "bench/support/link_end.h"
#include "bench/support/report.h"
#include "engine/engine_compute.h"
#include "env/real_loop.h"
#include "env/system_random.h"
#include "membership/fake_verifier.h"
#include "model/config.h"
#include "model/fingerprint.h"
#include "model/random_model.h"
#include "model/weights.h"
#include "net/identity.h"
#include "net/io_thread.h"
#include "net/tls_transport.h"
#include "node/mesh_node.h"
#include "scheduler/layer_allocation.h"

namespace mesh::bench {
namespace {

const std::string kCluster(32, 'b');
constexpr std::uint64_t kMemory = 8ull << 30;
constexpr std::chrono::seconds kPatience{120};

model::RandomModelOptions model_options() {
  model::RandomModelOptions options;
  options.layers = kModelLayers;
  options.hidden = kModelHidden;
  options.intermediate = 2816;
  options.heads = 16;
  options.kv_heads = 4;
  options.head_dim = 64;
  options.vocabulary = kModelVocabulary;
  options.context = 8192;
  return options;
}

Result<node::LocalModel> local_model(const formats::ModelFiles& files,
                                     const model::ModelSpec& spec) {
  MESH_ASSIGN_OR_RETURN(const model::Fingerprint print, model::fingerprint(spec, *files.tensors));
  node::LocalModel local;
  local.identity.name = "random";
  local.identity.fingerprint = print.value;
  local.identity.layers = spec.layers;
  local.identity.hidden = spec.hidden;
  local.identity.context = spec.context;
  local.identity.vocabulary = spec.vocabulary;
  for (std::uint32_t layer = 0; layer < spec.layers; ++layer)
    local.cost.layer_bytes.push_back(model::layer_bytes(spec, *files.tensors, layer));
  local.cost.embedding_bytes = model::embedding_bytes(spec, *files.tensors);
  local.cost.head_bytes = model::head_bytes(spec, *files.tensors);
  return local;
}

}  // namespace

Result<std::vector<LayerRange>> planned_stages(std::size_t nodes) {
  MESH_ASSIGN_OR_RETURN(const formats::ModelFiles files, model::make_random_model(model_options()));
  MESH_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::parse_config(files));
  MESH_ASSIGN_OR_RETURN(const node::LocalModel local, local_model(files, spec));
  std::vector<scheduler::NodeCapacity> capacities(nodes);
  for (std::size_t i = 0; i < nodes; ++i) {
    capacities[i].id.bytes[0] = static_cast<std::uint8_t>(i);
    capacities[i].memory = kMemory;
  }
  MESH_ASSIGN_OR_RETURN(const auto stages, scheduler::allocate_layers(local.cost, capacities));
  std::vector<LayerRange> ranges;
  for (const auto& stage : stages) ranges.push_back(stage.layers);
  return ranges;
}

// Members are destroyed in reverse order; what uses the loop is let go on it before it ends.
struct LocalMesh::Node {
  Node() : identity(net::NodeIdentity::generate()), verifier(identity.id(), kCluster) {}
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
  net::NodeIdentity identity;
  membership::FakeVerifier verifier;
  net::IoThread io;
  std::unique_ptr<net::TlsTransport> transport;
  std::uint16_t port = 0;
  std::unique_ptr<env::Env> env;
  std::unique_ptr<TimedCompute> compute;
  std::unique_ptr<node::MeshNode> node;
};

Result<void> LocalMesh::add_node(const MeshOptions& options, std::size_t index) {
  auto owned = std::make_unique<Node>();
  Node& n = *owned;
  n.loop.start();
  nodes_.push_back(std::move(owned));
  n.transport = std::make_unique<net::TlsTransport>(n.io, n.loop, n.events, n.identity);
  MESH_ASSIGN_OR_RETURN(n.port, n.transport->listen("127.0.0.1", 0));
  n.env = std::make_unique<env::Env>(
      env::Env{n.loop, n.loop, n.loop, n.random, *n.transport, n.events, n.metrics});

  model::RandomModelOptions random = model_options();
  random.seed = options.seed;
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, model::make_random_model(random));
  MESH_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::parse_config(files));
  MESH_ASSIGN_OR_RETURN(node::LocalModel local, local_model(files, spec));
  backends::BackendOptions backend_options;
  backend_options.threads = options.threads;
  MESH_ASSIGN_OR_RETURN(auto backend, backends::make_backend("cpu", backend_options));

  node::NodeConfig config;
  config.name = fmt::format("stage {}", index);
  config.certificate =
      membership::FakeVerifier::issue(kCluster, n.identity.id(), std::int64_t{1} << 60);
  config.engine = {std::string(engine_version()), backend->info().numeric_class,
                   backend->self_test()};
  config.addresses = {env::Address{"127.0.0.1", n.port}.to_string()};
  if (index > 0) config.seeds = {env::Address{"127.0.0.1", nodes_.front()->port}};
  config.pinned = options.stages[index];
  config.memory_for_model = kMemory;
  config.min_nodes = static_cast<std::uint32_t>(options.stages.size());

  engine::EngineOptions engine_options;
  engine_options.stage.pages = options.pages;
  engine_options.now = [] { return now(); };
  engine_options.leaving = [&io = n.io] { io.expect(); };
  Result<void> made;
  run_on(n.loop, [&] {
    auto engine = engine::EngineCompute::make(std::move(backend), std::move(files), n.loop,
                                              std::move(engine_options));
    if (!engine.ok()) {
      made = engine.error();
      return;
    }
    n.compute = std::make_unique<TimedCompute>(std::move(*engine));
    n.node = std::make_unique<node::MeshNode>(*n.env, n.verifier, std::move(config));
    n.node->attach_model(std::move(local), *n.compute);
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
    if (ready) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return Error(Code::kDeadlineExceeded, "no route: " + why);
}

Result<std::unique_ptr<LocalMesh>> LocalMesh::start(const MeshOptions& options) {
  std::unique_ptr<LocalMesh> mesh(new LocalMesh());
  for (std::size_t i = 0; i < options.stages.size(); ++i)
    MESH_RETURN_IF_ERROR(mesh->add_node(options, i));
  MESH_RETURN_IF_ERROR(mesh->wait_route());
  return mesh;
}

LocalMesh::~LocalMesh() = default;

LocalMesh::Running LocalMesh::ask(std::uint32_t prompt_tokens, std::uint32_t new_tokens,
                                  std::uint64_t number) {
  pipeline::GenerateParams params;
  Prng random(number);
  for (std::uint32_t i = 0; i < prompt_tokens; ++i)
    params.prompt.push_back(static_cast<TokenId>(random.below(kModelVocabulary)));
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

std::size_t LocalMesh::row_bytes() const {
  return nodes_.front()->compute->shape().row_bytes;
}

}  // namespace mesh::bench
