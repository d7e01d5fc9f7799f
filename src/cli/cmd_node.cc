// toolkit-mesh run, join and serve: a node until Ctrl-C.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <mutex>
#include <thread>

#include "api/api_server.h"
#include "base/limits.h"
#include "cli/api_key.h"
#include "cli/console.h"
#include "cli/data_dir.h"
#include "cli/environment.h"
#include "cli/model_names.h"
#include "cli/options.h"
#include "env/system_random.h"
#include "net/ports.h"
#include "node/local_node.h"
#include "ops/kv_layout.h"

namespace mesh::cli {
namespace {

constexpr std::uint16_t kHttpPort = 8642;
constexpr std::uint16_t kPeerPort = 8643;

// What ends the program: a signal or a node that cannot go on.
class Ending {
 public:
  void fail(const Error& why) {
    std::lock_guard lock(mutex_);
    if (why_.has_value()) return;  // the signal is on its way
    why_ = why;
    ::kill(::getpid(), SIGTERM);
  }
  std::optional<Error> why() {
    std::lock_guard lock(mutex_);
    return why_;
  }

 private:
  std::mutex mutex_;
  std::optional<Error> why_;
};

Result<std::string> read_cluster_key(const NodeOptions& options) {
  if (options.cluster_key_file.empty()) return std::string();
  const bool piped = options.cluster_key_file == "-";
  std::ifstream file;
  if (!piped) file.open(options.cluster_key_file);
  if (!piped && !file)
    return Error(Code::kNotFound,
                 fmt::format("--cluster-key-file: cannot read {}", options.cluster_key_file));
  std::istream& in = piped ? std::cin : file;
  std::string line;
  for (char c = 0; line.size() <= limits::kKeyFileBytes && in.get(c) && c != '\n';) line += c;
  if (line.empty())
    return Error(Code::kInvalidArgument, "the cluster key is empty; expected one line tmck1-…");
  return line;
}

Result<node::LocalNodeOptions> local_options(const NodeOptions& o, const std::string& data_dir,
                                             const std::string& node_dir) {
  node::LocalNodeOptions local;
  local.data_dir = data_dir;
  local.node_dir = node_dir;
  MESH_ASSIGN_OR_RETURN(local.cluster_key_text, read_cluster_key(o));
  local.create_cluster_key = o.verb != NodeVerb::kJoin;
  local.name = o.name;
  local.listen = {"127.0.0.1", kPeerPort};
  if (o.listen.has_value()) {
    MESH_ASSIGN_OR_RETURN(local.listen, env::Address::parse(*o.listen));
    local.listen_fixed = true;
  }
  if (o.verb == NodeVerb::kServe) local.listen = {};
  for (const std::string& text : o.advertise) {
    MESH_ASSIGN_OR_RETURN(const env::Address address, env::Address::parse(text));
    local.advertise.push_back(address.to_string());
  }
  for (const std::string& text : o.peers) {
    MESH_ASSIGN_OR_RETURN(const env::Address address, env::Address::parse(text));
    local.peers.push_back(address);
  }
  local.model = o.model;
  local.take_model_from_mesh = o.verb == NodeVerb::kJoin && o.model.empty();
  local.hub = hub_environment();
  if (!o.layers.empty()) {
    MESH_ASSIGN_OR_RETURN(const LayerRange layers, LayerRange::parse(o.layers));
    local.layers = layers;
  }
  local.memory = o.memory;
  local.kv_memory = o.kv_memory;
  local.max_queue = o.max_queue;
  local.min_nodes = o.min_nodes;
  local.willing = !o.no_layers;
  local.backend = o.device;
  local.isa = o.isa;
  MESH_ASSIGN_OR_RETURN(local.choices.quantize, formats::parse_quantize(o.quantize));
  if (!o.kv_dtype.empty()) {
    MESH_ASSIGN_OR_RETURN(local.choices.kv_type, ops::parse_kv_dtype(o.kv_dtype));
  }
  local.threads = o.threads;
  MESH_ASSIGN_OR_RETURN(local.log.level_min, env::parse_level(o.log_level));
  local.log.format =
      o.log_format == "json" ? env::TextEvents::Format::kJson : env::TextEvents::Format::kText;
  local.log.path = o.log_file;
  return local;
}

struct Listening {
  std::unique_ptr<api::ApiServer> server;
  std::uint16_t port = 0;
};

Result<Listening> listen_on(node::LocalNode& node, const NodeOptions& o, const std::string& api_key,
                            std::uint16_t port) {
  api::ApiOptions options;
  options.host = o.host;
  options.port = port;
  options.tries = 1;
  options.api_key = api_key;
  options.page = !o.no_ui;
  options.cors_origins = o.cors_origins;
  auto server = std::make_unique<api::ApiServer>(
      api::ApiWorld{node.gateway(), node.clock(), node.random(), node.events()}, options);
  MESH_ASSIGN_OR_RETURN(const std::uint16_t bound, server->listen());
  return Listening{std::move(server), bound};
}

// HTTP ports of a machine's nodes are two apart, as the peers' ports lie between them.
Result<Listening> listen_http(node::LocalNode& node, const NodeOptions& o,
                              const std::string& api_key, Console& console) {
  if (o.port.has_value()) {
    Result<Listening> bound = listen_on(node, o, api_key, *o.port);
    if (bound.ok()) return bound;
    const Result<std::string> owner = net::port_owner(*o.port);
    return Error(bound.error().code,
                 owner.ok() ? fmt::format("port {} is used by {}; choose another with --port",
                                          *o.port, *owner)
                            : bound.error().message);
  }
  Error last(Code::kUnavailable, "no port tried");
  for (int i = 0; i < limits::kNodesPerMachine; ++i) {
    Result<Listening> bound =
        listen_on(node, o, api_key, static_cast<std::uint16_t>(kHttpPort + 2 * i));
    if (!bound.ok()) {
      last = bound.error();
      continue;
    }
    if (i > 0) {
      const Result<std::string> owner = net::port_owner(kHttpPort);
      console.line(fmt::format("  port {} is used by {}, so this node takes {}", kHttpPort,
                               owner.ok() ? *owner : "another program", bound->port));
    }
    return bound;
  }
  return last;
}

void print_urls(const NodeOptions& o, const node::LocalNode& node, const std::string& http,
                bool key, Console& console) {
  console.line(
      fmt::format("✓ node           {} in cluster {}", node.id().short_name(), node.cluster()));
  console.line(fmt::format("  Web page  http://{}/        API  http://{}/v1        key: {}", http,
                           http, key ? "required" : "none (loopback only)"));
  if (o.verb != NodeVerb::kServe)
    console.line(fmt::format("  Add a node  toolkit-mesh join {}    (with this mesh's cluster.key)",
                             node.peer_address().to_string()));
  console.line(
      fmt::format("  Try         toolkit-mesh chat --port {}", http.substr(http.rfind(':') + 1)));
}

// As the page and `status` show layers: the last one included.
std::string shown(LayerRange layers) {
  return layers.size() == 1 ? fmt::format("{}", layers.begin)
                            : fmt::format("{}–{}", layers.begin, layers.end - 1);
}

// Takes one waiting signal, if there is one; 0 otherwise. sigtimedwait() would also wait, but macOS
// has none.
int take_signal(const sigset_t& signals) {
  sigset_t pending;
  sigemptyset(&pending);
  sigpending(&pending);
  int number = 0;
  const bool waiting = sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1;
  return waiting && sigwait(&signals, &number) == 0 ? number : 0;
}

// How far the reading of weights is: told by the compute thread, shown by the main one.
class LoadState {
 public:
  void set(std::uint64_t done, std::uint64_t total) {
    const std::lock_guard lock(mutex_);
    done_ = done;
    total_ = total;
  }
  void show(LoadProgress& progress, Console& console) {
    std::uint64_t done = 0, total = 0;
    {
      const std::lock_guard lock(mutex_);
      done = done_;
      total = total_;
    }
    if (total == 0) return;
    const Instant now(std::chrono::steady_clock::now().time_since_epoch());
    if (const auto text = progress.update(now, done, total)) console.progress(*text);
    if (done >= total) console.end_progress();
  }

 private:
  std::mutex mutex_;
  std::uint64_t done_ = 0, total_ = 0;
};

// Prints "ready", later changes of readiness and the progress of loads, until a signal comes.
void watch(node::Gateway& gateway, const sigset_t& signals, LoadState& load, Console& console) {
  bool was_ready = false;
  std::string said;
  LoadProgress progress(console.terminal());
  for (; take_signal(signals) == 0; std::this_thread::sleep_for(std::chrono::milliseconds(50))) {
    load.show(progress, console);
    const node::MeshStatus status = gateway.status();
    if (status.ready && !was_ready) {
      std::string layout;
      for (const node::NodeStatus& n : status.nodes)
        if (!n.layers.empty() && n.state == "ready")
          layout += fmt::format("{}{} {}", layout.empty() ? "" : " → ", n.name, shown(n.layers));
      console.line(fmt::format("✓ ready          {}: {}", status.model, layout));
      said.clear();
    } else if (!status.ready && status.waiting_for != said) {
      said = status.waiting_for;
      if (!said.empty()) console.line(fmt::format("… {}", said));
    }
    was_ready = status.ready;
  }
}

// Lets running requests end; whoever does not want to wait asks a second time.
void drain(node::LocalNode& node, const sigset_t& signals, NodeDirectory& directory,
           Console& console) {
  const auto drained = std::make_shared<std::atomic<bool>>(false);
  node.drain(limits::kLeaveDeadline, [drained] { *drained = true; });
  if (!*drained)
    console.line(fmt::format("… running requests have {:.0f} s to end; Ctrl-C again does not wait",
                             to_seconds(limits::kLeaveDeadline)));
  while (!*drained) {
    if (const int number = take_signal(signals); number != 0) {
      directory.forget();
      ::_exit(number == SIGINT ? kInterrupted : kTerminated);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// A load that is under way is waited for; whoever does not want to wait presses Ctrl-C again.
void second_signal_kills(const sigset_t& signals) {
  while (take_signal(signals) != 0) {
  }
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

Result<ApiKey> api_key_of(const NodeOptions& o, const std::string& data_dir, Console& console) {
  env::SystemRandom random;
  MESH_ASSIGN_OR_RETURN(ApiKey key,
                        node_api_key(o, data_dir, environment("TOOLKIT_MESH_API_KEY"), random));
  if (key.made)
    console.important(
        fmt::format("! {} can be reached by others, so clients need a key. Made now "
                    "and shown once:\n  {}\n  kept in {}",
                    o.host, key.text, key.source));
  else if (!is_loopback(o.host))
    console.line(fmt::format("✓ API key        from {}", key.source));
  return key;
}

node::LocalNodeHooks hooks_of(const NodeOptions& o, Ending& ending, LoadState& load,
                              Console& console) {
  node::LocalNodeHooks hooks;
  hooks.progress = [&console](const std::string& line) { console.line(line); };
  hooks.fatal = [&ending](const Error& why) { ending.fail(why); };
  hooks.loading = [&load](std::uint64_t done, std::uint64_t total) { load.set(done, total); };
  // A log of that level on the same terminal says it already.
  const bool logged = o.log_file.empty() && (o.log_level == "debug" || o.log_level == "info");
  if (!logged)
    hooks.event = [&console](std::string_view name, const std::vector<Field>& fields) {
      if (const std::string line = request_line(name, fields); !line.empty()) console.line(line);
    };
  return hooks;
}

// The same error, with the name that was probably meant.
Error with_suggestion(const Error& why, const std::string& model) {
  if (why.code != Code::kNotFound) return why;
  const std::string close = closest_model(model, known_models(hub_environment()));
  return close.empty() || close == model
             ? why
             : Error(why.code, fmt::format("{}; did you mean '{}'?", why.message, close));
}

Result<void> serve_until_signal(const NodeOptions& o, const sigset_t& signals) {
  if (o.verb == NodeVerb::kJoin && o.peers.empty())
    return Error(Code::kInvalidArgument,
                 "join needs the address of a node of the mesh, as that node printed it: "
                 "toolkit-mesh join HOST:8643 --cluster-key-file cluster.key");
  Console console(o.quiet);
  MESH_ASSIGN_OR_RETURN(const std::string data_dir, data_directory(o.data_dir));
  MESH_ASSIGN_OR_RETURN(NodeDirectory directory, NodeDirectory::claim(data_dir));
  MESH_ASSIGN_OR_RETURN(node::LocalNodeOptions local, local_options(o, data_dir, directory.path()));
  MESH_ASSIGN_OR_RETURN(const ApiKey key, api_key_of(o, data_dir, console));
  Ending ending;
  LoadState load;
  Result<std::unique_ptr<node::LocalNode>> started =
      node::LocalNode::start(std::move(local), hooks_of(o, ending, load, console));
  if (!started.ok()) return with_suggestion(started.error(), o.model);
  const std::unique_ptr<node::LocalNode> node = std::move(*started);
  MESH_ASSIGN_OR_RETURN(const Listening api, listen_http(*node, o, key.text, console));
  const std::string http = env::Address{o.host, api.port}.to_string();
  node->go(http);
  print_urls(o, *node, http, !key.text.empty(), console);
  MESH_RETURN_IF_ERROR(directory.announce("http://" + http, node->peer_address().to_string(),
                                          node->id().to_string()));
  watch(node->gateway(), signals, load, console);
  console.end_progress();
  if (!ending.why().has_value()) drain(*node, signals, directory, console);
  second_signal_kills(signals);
  node->end_requests(Error(Code::kUnavailable, "this node is shutting down", true));
  api.server->stop();
  node->stop();
  if (const std::optional<Error> why = ending.why()) return *why;
  return {};
}

}  // namespace

int run_node(const NodeOptions& options) {
  // Before any thread starts, so that all of them leave the signals to watch().
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  const Result<void> ended = serve_until_signal(options, signals);
  if (ended.ok()) return kDone;
  fmt::print(stderr, "✗ {}\n", ended.error().message);
  return ended.error().code == Code::kInvalidArgument ? kUsage : kFailed;
}

}  // namespace mesh::cli
