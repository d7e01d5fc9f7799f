#include "node/local_node.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "backends/backends.h"
#include "base/limits.h"
#include "base/version.h"
#include "engine/engine_compute.h"
#include "env/blocking_pool.h"
#include "env/env.h"
#include "env/real_loop.h"
#include "env/system_random.h"
#include "env/text_events.h"
#include "net/io_thread.h"
#include "net/tls_transport.h"
#include "node/credentials.h"
#include "node/machine.h"
#include "node/mesh_node.h"
#include "node/model_catalog.h"
#include "node/serving.h"
#include "topology/topology.h"

namespace mesh::node {
namespace {

// At most this share goes to the KV cache, less when the weights leave less.
constexpr std::uint64_t kKvShareOfMemory = 4;  // a quarter

Error stopping() {
  return Error(Code::kUnavailable, "this node is shutting down", true);
}

std::string device_text(const ops::BackendInfo& info) {
  std::string text = info.device.empty() ? info.name : info.device;
  if (!info.isa.empty()) text += ", " + info.isa;
  return text;
}

// The log, and a copy of what people may care about for the terminal.
class ShownEvents final : public Events {
 public:
  using Show = std::function<void(std::string_view name, const std::vector<Field>& fields)>;
  ShownEvents(std::unique_ptr<Events> log, Show show)
      : log_(std::move(log)), show_(std::move(show)) {}
  void emit(Level level, std::string_view name, std::vector<Field> fields) override {
    if (show_ && level >= Level::kInfo) show_(name, fields);
    log_->emit(level, name, std::move(fields));
  }

 private:
  const std::unique_ptr<Events> log_;
  const Show show_;
};

}  // namespace

// Members are destroyed in reverse order: what uses the loop goes before it. Everything below
// `node` is touched on the control loop only.
struct LocalNode::Impl {
  LocalNodeOptions options;
  LocalNodeHooks hooks;
  env::RealLoop loop;
  std::unique_ptr<Events> events;
  env::SystemRandom random;
  std::unique_ptr<Credentials> credentials;
  std::unique_ptr<net::IoThread> io;
  std::unique_ptr<net::TlsTransport> transport;
  metrics::Registry metrics;
  std::unique_ptr<env::Env> env;
  std::unique_ptr<ops::Backend> backend;  // until a model is there
  ops::BackendInfo backend_info;
  int threads = 0;  // of the engine
  std::uint64_t self_test = 0;
  std::uint64_t memory = 0;
  std::unique_ptr<env::BlockingPool> blocking;
  std::unique_ptr<engine::EngineCompute> compute;
  std::unique_ptr<MeshNode> node;
  std::unique_ptr<Serving> serving;
  std::string http;
  env::Address bound;
  std::vector<env::Address> reachable;  // what others are told; empty: no peers
  env::TimerHandle status_timer;
  env::TimerHandle drain_timer;
  Instant drain_deadline;
  std::function<void()> drained;
  bool stopped = false;

  void progress(const std::string& line) {
    if (hooks.progress) hooks.progress(line);
  }
  Result<void> open_device();
  Result<void> open_transport();
  void choose_reachable();
  void make_node();
  Result<void> adopt_model(OpenedModel opened, std::shared_ptr<const TextService> text);
  void look_for_model(const wire::ModelIdentity& wanted);
  void publish();
  void wait_for_requests();
  void on_loop(const std::function<void()>& task);
};

// Runs a task on the control loop and waits for it.
void LocalNode::Impl::on_loop(const std::function<void()>& task) {
  std::mutex mutex;
  std::condition_variable done;
  bool ran = false;
  loop.post([&] {
    task();
    std::lock_guard lock(mutex);
    ran = true;
    done.notify_all();
  });
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return ran; });
}

Result<void> LocalNode::Impl::open_device() {
  backends::BackendOptions wanted;
  threads = wanted.threads = options.threads > 0 ? options.threads : topology::default_threads();
  wanted.isa = options.isa;
  MESH_ASSIGN_OR_RETURN(backend, backends::make_backend(options.backend, wanted));
  backend_info = backend->info();
  self_test = backend->self_test();
  memory = options.memory > 0 ? options.memory : available_memory() / 10 * 8;
  progress(fmt::format("✓ this machine   {}, {:.1f} GB for the model", device_text(backend_info),
                       static_cast<double>(memory) / 1e9));
  return {};
}

Result<void> LocalNode::Impl::open_transport() {
  io = std::make_unique<net::IoThread>();
  transport = std::make_unique<net::TlsTransport>(*io, loop, *events, credentials->identity());
  env =
      std::make_unique<env::Env>(env::Env{loop, loop, loop, random, *transport, *events, metrics});
  if (options.listen.host.empty()) return {};
  // Every node of a machine takes two ports, so the peers' ports are two apart.
  Error last(Code::kUnavailable, "no port tried");
  const int tries = options.listen_fixed ? 1 : limits::kNodesPerMachine;
  for (int i = 0; i < tries; ++i) {
    const Result<std::uint16_t> port = transport->listen(
        options.listen.host, static_cast<std::uint16_t>(options.listen.port + 2 * i), 1);
    if (port.ok()) {
      bound = {options.listen.host, *port};
      return {};
    }
    last = port.error();
  }
  return last.with_context("listening for other nodes");
}

void LocalNode::Impl::make_node() {
  NodeConfig config;
  const std::string id_text = credentials->identity().id().to_string();
  // Several nodes of one machine, or equal host names, must not look alike in a sentence.
  config.name = options.name.empty() ? host_name() + "-" + id_text.substr(0, 4) : options.name;
  config.cluster = credentials->cluster();
  config.certificate = credentials->own_certificate(loop.unix_milliseconds());
  config.engine = {std::string(engine_version()), backend_info.numeric_class, self_test};
  for (const env::Address& address : reachable) config.addresses.push_back(address.to_string());
  config.http = http;
  config.device = device_text(backend_info);
  config.seeds = options.peers;
  config.willing = options.willing;
  config.pinned = options.layers;
  config.share = {machine_number(), static_cast<std::uint32_t>(topology::this_machine().cores()),
                  static_cast<std::uint32_t>(threads)};
  config.memory_for_model = memory;
  config.min_nodes = options.min_nodes;
  config.max_queue = options.max_queue;
  NodeHooks node_hooks;
  if (options.take_model_from_mesh)
    node_hooks.model_wanted = [this](const wire::ModelIdentity& wanted) { look_for_model(wanted); };
  node_hooks.refused = [this](const std::string& sentence, bool by_seed) {
    // With no other link there is no mesh to be in; but a stranger must not be able to end this
    // node.
    const auto& members = node->membership().members();
    const bool linked =
        std::any_of(members.begin(), members.end(), [](const auto& m) { return m.second.alive; });
    if (by_seed && !linked && hooks.fatal)
      return hooks.fatal(Error(Code::kPermissionDenied, sentence));
    progress("✗ " + sentence);
  };
  // Whoever hears of a lost stage may ask /ready at once.
  node_hooks.changed = [this] {
    if (serving) serving->publish_status();
  };
  node = std::make_unique<MeshNode>(*env, *credentials, std::move(config), std::move(node_hooks));
  serving = std::make_unique<Serving>(*env, *node, *blocking);
}

Result<void> LocalNode::Impl::adopt_model(OpenedModel opened,
                                          std::shared_ptr<const TextService> text) {
  if (options.layers.has_value() && options.layers->end > opened.spec.layers)
    return Error(Code::kInvalidArgument,
                 fmt::format("--layers {}: model {} has layers 0:{}", options.layers->to_string(),
                             opened.files.name, opened.spec.layers));
  progress(fmt::format("✓ model          {} ({}), {} layers, {}", opened.files.name,
                       opened.files.origin, opened.spec.layers, opened.spec.family));
  if (!opened.conversion.empty()) progress("✓ quantize       " + opened.conversion);
  if (opened.spec.kv != opened.spec.residual)
    progress(fmt::format("✓ KV cache       in {}", opened.local.identity.kv_dtype));
  engine::EngineOptions engine_options;
  engine_options.stage.kv_bytes =
      options.kv_memory > 0 ? options.kv_memory : memory / kKvShareOfMemory;
  engine_options.stage.memory_bytes = memory;
  engine_options.stage.progress = hooks.loading;
  engine_options.now = [this] { return loop.now(); };
  ModelRules rules{opened.spec.stop_ids, opened.sampling, opened.spec.vocabulary};
  MESH_ASSIGN_OR_RETURN(
      compute, engine::EngineCompute::make(std::move(backend), std::move(opened.files), loop,
                                           std::move(engine_options)));
  serving->set_model(std::move(text), std::move(rules));
  node->attach_model(std::move(opened.local), *compute);
  return {};
}

void LocalNode::Impl::look_for_model(const wire::ModelIdentity& wanted) {
  progress(fmt::format("… the mesh serves {}; looking for its files here", wanted.name));
  const Result<void> queued = blocking->submit([this, wanted] {
    auto found = std::make_shared<Result<OpenedModel>>(find_mesh_model(wanted, options.hub));
    // A large tokenizer takes longer to read than the loop may be silent.
    std::shared_ptr<const TextService> text;
    if (found->ok()) {
      Result<std::shared_ptr<const TextService>> made = TextService::create((*found)->files);
      if (made.ok())
        text = *made;
      else
        *found = made.error();
    }
    loop.post([this, found, text] {
      Result<void> adopted =
          found->ok() ? adopt_model(std::move(**found), text) : Result<void>(found->error());
      if (adopted.ok()) return;
      node->give_up(adopted.error());
      if (hooks.fatal) hooks.fatal(adopted.error());
    });
  });
  if (!queued.ok()) node->give_up(queued.error());
}

void LocalNode::Impl::publish() {
  serving->tick();
  serving->publish_status();
  status_timer = loop.after(milliseconds(100), [this] { publish(); });
}

Result<std::unique_ptr<LocalNode>> LocalNode::start(LocalNodeOptions options,
                                                    LocalNodeHooks hooks) {
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  impl->hooks = std::move(hooks);
  Impl& node = *impl;
  MESH_ASSIGN_OR_RETURN(std::unique_ptr<Events> log,
                        env::TextEvents::open(node.options.log, node.loop));
  node.events = std::make_unique<ShownEvents>(std::move(log), node.hooks.event);
  MESH_ASSIGN_OR_RETURN(
      node.credentials,
      Credentials::load(node.options.data_dir, node.options.node_dir, node.options.cluster_key_text,
                        node.options.create_cluster_key));
  MESH_RETURN_IF_ERROR(node.open_device());
  std::optional<OpenedModel> opened;
  if (!node.options.take_model_from_mesh) {
    MESH_ASSIGN_OR_RETURN(
        opened, open_local_model(node.options.model, node.options.hub, node.options.choices));
  }
  std::shared_ptr<const TextService> text;
  if (opened.has_value()) {
    MESH_ASSIGN_OR_RETURN(text, TextService::create(opened->files));
  }
  MESH_RETURN_IF_ERROR(node.open_transport());
  node.choose_reachable();
  node.blocking = std::make_unique<env::BlockingPool>(2);
  node.loop.start();
  Result<void> made;
  node.on_loop([&] {
    node.make_node();
    if (opened.has_value()) made = node.adopt_model(std::move(*opened), std::move(text));
  });
  std::unique_ptr<LocalNode> out(new LocalNode(std::move(impl)));
  if (!made.ok()) return made.error();
  return out;
}

// An address that stands for all interfaces means something else on every machine: others are told
// the interfaces' own.
void LocalNode::Impl::choose_reachable() {
  for (const std::string& text : options.advertise)
    if (const Result<env::Address> address = env::Address::parse(text); address.ok())
      reachable.push_back(*address);
  if (!reachable.empty() || bound.port == 0) return;
  const bool all_v4 = bound.host == "0.0.0.0", all = bound.host == "::";
  if (all_v4 || all)
    for (const std::string& host : interface_addresses())
      if ((all || host.find(':') == std::string::npos) &&
          reachable.size() < limits::kAddressesPerPeer)
        reachable.push_back({host, bound.port});
  if (reachable.empty()) reachable = {bound};
}

LocalNode::LocalNode(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LocalNode::~LocalNode() {
  stop();
}

Gateway& LocalNode::gateway() {
  return *impl_->serving;
}
env::Clock& LocalNode::clock() {
  return impl_->loop;
}
env::Random& LocalNode::random() {
  return impl_->random;
}
Events& LocalNode::events() {
  return *impl_->events;
}
env::Address LocalNode::peer_address() const {
  return impl_->reachable.empty() ? impl_->bound : impl_->reachable.front();
}
PeerId LocalNode::id() const {
  return impl_->credentials->identity().id();
}
std::string LocalNode::cluster() const {
  return impl_->credentials->cluster();
}

void LocalNode::go(const std::string& http) {
  impl_->on_loop([this, &http] {
    impl_->node->set_http(http);
    impl_->node->start();
    impl_->publish();
  });
}

void LocalNode::drain(Duration deadline, std::function<void()> done) {
  impl_->on_loop([&] {
    impl_->drain_deadline = impl_->loop.now() + deadline;
    impl_->drained = std::move(done);
    impl_->serving->stop_admitting(stopping());
    impl_->node->drain();
    impl_->wait_for_requests();
  });
}

void LocalNode::Impl::wait_for_requests() {
  if ((serving->idle() && node->drained()) || loop.now() >= drain_deadline) {
    if (drained) std::exchange(drained, nullptr)();
    return;
  }
  drain_timer = loop.after(milliseconds(20), [this] { wait_for_requests(); });
}

void LocalNode::end_requests(const Error& why) {
  impl_->on_loop([this, &why] { impl_->serving->shut_down(why); });
}

// Order: no new work (blocking jobs end), then links and requests on the loop, then the loop, then
// what it ran on.
void LocalNode::stop() {
  if (!impl_ || impl_->stopped) return;
  impl_->stopped = true;
  if (impl_->blocking) impl_->blocking->stop();
  impl_->on_loop([this] {
    impl_->status_timer.cancel();
    impl_->drain_timer.cancel();
    if (impl_->serving) impl_->serving->shut_down(stopping());
    impl_->serving.reset();
    impl_->node.reset();
    impl_->compute.reset();
  });
  impl_->loop.stop();
  impl_->transport.reset();
}

}  // namespace mesh::node
