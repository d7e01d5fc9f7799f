#pragma once
// Everything one machine runs: identity, cluster key, transport, control loop, engine and gateway,
// wired together.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/events.h"
#include "base/ids.h"
#include "base/limits.h"
#include "base/result.h"
#include "env/env.h"
#include "env/text_events.h"
#include "env/transport.h"
#include "node/gateway.h"
#include "node/model_catalog.h"

namespace mesh::node {

struct LocalNodeOptions {
  std::string data_dir;  // of the cluster key
  std::string node_dir;  // of this node's key; data_dir for the first node of a machine
  env::TextEvents::Options log;
  std::string
      cluster_key_text;  // from a file or standard input (join); empty: data_dir/cluster.key
  bool create_cluster_key = false;  // run: make data_dir/cluster.key when it is missing
  std::string name;                 // shown to people; default: host name
  env::Address listen{"127.0.0.1", 8643};
  bool listen_fixed = false;  // the port was asked for: do not look for the next free one
  std::vector<std::string> advertise;
  std::vector<env::Address> peers;
  std::string model;  // -m; "" with take_model_from_mesh: whatever the mesh serves
  bool take_model_from_mesh = false;
  ModelChoices choices;  // of `model`; a model taken from the mesh comes with the mesh's
  formats::HubEnvironment hub;
  std::optional<LayerRange> layers;
  std::uint32_t min_nodes = 1;
  bool willing = true;  // false: asks only, holds no layers
  std::string backend = "cpu";
  std::string isa;              // "": best
  int threads = 0;              // 0: one for each core
  std::uint64_t memory = 0;     // bytes for weights and KV; 0: 80 % of what is available
  std::uint64_t kv_memory = 0;  // bytes of it for KV; 0: a quarter
  std::size_t max_queue =
      limits::kWaitingRequests;  // sequences that may wait before more are refused
};

// Called from the control loop, but where another thread is named.
struct LocalNodeHooks {
  std::function<void(const std::string& line)> progress;  // "✓ model  pocket (built in)" …
  std::function<void(const Error& why)> fatal;            // the node cannot go on
  // Weights are being read: bytes so far and in all, after each layer. On the compute thread.
  std::function<void(std::uint64_t done, std::uint64_t total)> loading;
  // Every event of level info and above, whatever the log shows. On any thread.
  std::function<void(std::string_view name, const std::vector<Field>& fields)> event;
};

class LocalNode {
 public:
  // Reads or makes keys, opens the model, binds the peer port, starts the threads. Errors are
  // sentences for people.
  static Result<std::unique_ptr<LocalNode>> start(LocalNodeOptions options, LocalNodeHooks hooks);
  ~LocalNode();

  Gateway& gateway();
  // For the API; thread-safe as ApiWorld asks.
  env::Clock& clock();
  env::Random& random();
  Events& events();
  env::Address peer_address() const;  // the first that it tells others; port 0: none
  PeerId id() const;
  std::string cluster() const;  // short id
  // Joins the mesh: dials the peers, takes part in planning. `http`: where the API listens, for
  // this node's record.
  void go(const std::string& http);
  // Takes no new request, as entry or as stage, and lets those that run come to their end, for at
  // most `deadline`; meanwhile the planner gives the layers to others. Then `done`, on the control
  // loop: at once when nothing runs. Once.
  void drain(Duration deadline, std::function<void()> done);
  // Every request ends with `why`, as does each one that still comes. Before the API is stopped,
  // so that clients are told.
  void end_requests(const Error& why);
  // Ends links and threads; every request that still runs gets an error first. Idempotent.
  void stop();

 private:
  struct Impl;
  explicit LocalNode(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::node
