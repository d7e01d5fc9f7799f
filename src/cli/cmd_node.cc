// toolkit-mesh run, join and serve: a node until Ctrl-C.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/api_server.h"
#include "base/limits.h"
#include "cli/data_dir.h"
#include "cli/environment.h"
#include "cli/options.h"
#include "net/ports.h"
#include "node/local_node.h"

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

Result<std::uint64_t> parse_size(const std::string& text) {
  std::size_t used = 0;
  double value = 0;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  static const std::map<std::string, double> kUnits = {{"", 1},     {"K", 1e3},  {"M", 1e6},
                                                       {"G", 1e9},  {"T", 1e12}, {"KB", 1e3},
                                                       {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
  const auto unit = kUnits.find(used > 0 ? text.substr(used) : "?");
  if (unit == kUnits.end() || !(value > 0) || value * unit->second > 1e18)
    return Error(Code::kInvalidArgument,
                 fmt::format("--memory {}: write a size such as 8G or 500M", text));
  return static_cast<std::uint64_t>(value * unit->second);
}

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

Result<std::string> read_api_key(const NodeOptions& options) {
  std::string key = environment("TOOLKIT_MESH_API_KEY");
  if (options.api_key_file.empty()) return key;
  std::ifstream file(options.api_key_file);
  if (!(file >> key))
    return Error(Code::kInvalidArgument, fmt::format("no API key in {}", options.api_key_file));
  return key;
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0;
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
  if (!o.memory.empty()) {
    MESH_ASSIGN_OR_RETURN(local.memory, parse_size(o.memory));
  }
  if (o.no_layers && local.layers.has_value())
    return Error(Code::kInvalidArgument, "--layers and --no-layers contradict each other");
  local.min_nodes = o.min_nodes;
  local.willing = !o.no_layers;
  local.backend = o.device;
  local.isa = o.isa;
  local.threads = o.threads;
  MESH_ASSIGN_OR_RETURN(local.log.level_min, env::parse_level(o.log_level));
  if (o.log_format != "text" && o.log_format != "json")
    return Error(Code::kInvalidArgument,
                 fmt::format("--log-format {}: choose text or json", o.log_format));
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
  auto server = std::make_unique<api::ApiServer>(
      api::ApiWorld{node.gateway(), node.clock(), node.random(), node.events()}, options);
  MESH_ASSIGN_OR_RETURN(const std::uint16_t bound, server->listen());
  return Listening{std::move(server), bound};
}

// HTTP ports of a machine's nodes are two apart, as the peers' ports lie between them.
Result<Listening> listen_http(node::LocalNode& node, const NodeOptions& o,
                              const std::string& api_key) {
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
      fmt::print("  port {} is used by {}, so this node takes {}\n", kHttpPort,
                 owner.ok() ? *owner : "another program", bound->port);
    }
    return bound;
  }
  return last;
}

void print_urls(const NodeOptions& o, const node::LocalNode& node, const std::string& http,
                bool key) {
  fmt::print("✓ node           {} in cluster {}\n", node.id().short_name(), node.cluster());
  fmt::print("  Web page  http://{}/        API  http://{}/v1        key: {}\n", http, http,
             key ? "required" : "none (loopback only)");
  if (o.verb != NodeVerb::kServe)
    fmt::print("  Add a node  toolkit-mesh join {}    (with this mesh's cluster.key)\n",
               node.peer_address().to_string());
  fmt::print("  Try         toolkit-mesh chat --port {}\n", http.substr(http.rfind(':') + 1));
  std::fflush(stdout);
}

// As the page and `status` show layers: the last one included.
std::string shown(LayerRange layers) {
  return layers.size() == 1 ? fmt::format("{}", layers.begin)
                            : fmt::format("{}–{}", layers.begin, layers.end - 1);
}

// Takes one waiting signal, if there is one. sigtimedwait() would also wait, but macOS has none.
bool take_signal(const sigset_t& signals) {
  sigset_t pending;
  sigemptyset(&pending);
  sigpending(&pending);
  int number = 0;
  const bool waiting = sigismember(&pending, SIGINT) == 1 || sigismember(&pending, SIGTERM) == 1;
  return waiting && sigwait(&signals, &number) == 0;
}

// Prints "ready" and later changes of readiness, until a signal comes.
void watch(node::Gateway& gateway, const sigset_t& signals) {
  bool was_ready = false;
  std::string said;
  for (; !take_signal(signals); std::this_thread::sleep_for(std::chrono::milliseconds(50))) {
    const node::MeshStatus status = gateway.status();
    if (status.ready && !was_ready) {
      std::string layout;
      for (const node::NodeStatus& n : status.nodes)
        if (!n.layers.empty() && n.state == "ready")
          layout += fmt::format("{}{} {}", layout.empty() ? "" : " → ", n.name, shown(n.layers));
      fmt::print("✓ ready          {}: {}\n", status.model, layout);
      said.clear();
    } else if (!status.ready && status.waiting_for != said) {
      said = status.waiting_for;
      if (!said.empty()) fmt::print("… {}\n", said);
    }
    was_ready = status.ready;
    std::fflush(stdout);
  }
}

// A load that is under way is waited for; whoever does not want to wait presses Ctrl-C again.
void second_signal_kills(const sigset_t& signals) {
  while (take_signal(signals)) {
  }
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

Result<void> serve_until_signal(const NodeOptions& o, const sigset_t& signals) {
  if (o.verb == NodeVerb::kJoin && o.peers.empty())
    return Error(Code::kInvalidArgument,
                 "join needs the address of a node of the mesh, as that node printed it: "
                 "toolkit-mesh join HOST:8643 --cluster-key-file cluster.key");
  MESH_ASSIGN_OR_RETURN(const std::string data_dir, data_directory(o.data_dir));
  MESH_ASSIGN_OR_RETURN(NodeDirectory directory, NodeDirectory::claim(data_dir));
  MESH_ASSIGN_OR_RETURN(node::LocalNodeOptions local, local_options(o, data_dir, directory.path()));
  MESH_ASSIGN_OR_RETURN(const std::string api_key, read_api_key(o));
  if (!is_loopback(o.host) && api_key.empty())
    return Error(Code::kInvalidArgument,
                 fmt::format("--host {} can be reached by others, so the API needs a key: write "
                             "one into a file and give "
                             "--api-key-file FILE",
                             o.host));
  Ending ending;
  node::LocalNodeHooks hooks;
  hooks.progress = [](const std::string& line) {
    fmt::print("{}\n", line);
    std::fflush(stdout);
  };
  hooks.fatal = [&ending](const Error& why) { ending.fail(why); };
  MESH_ASSIGN_OR_RETURN(const std::unique_ptr<node::LocalNode> node,
                        node::LocalNode::start(std::move(local), std::move(hooks)));
  MESH_ASSIGN_OR_RETURN(const Listening api, listen_http(*node, o, api_key));
  const std::string http = env::Address{o.host, api.port}.to_string();
  node->go(http);
  print_urls(o, *node, http, !api_key.empty());
  MESH_RETURN_IF_ERROR(directory.announce("http://" + http, node->peer_address().to_string(),
                                          node->id().to_string()));
  watch(node->gateway(), signals);
  second_signal_kills(signals);
  node->end_requests(Error(Code::kUnavailable, "this node is being stopped", true));
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
