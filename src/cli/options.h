#pragma once
// What the command line asks for, one struct per verb. main.cc fills them, cmd_*.cc carry them
// out.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/sampling.h"

namespace mesh::cli {

// Exit codes (docs/cli.md): 0 done, 1 failed, 2 wrong usage, 3 not reachable, 130 interrupted.
inline constexpr int kDone = 0, kFailed = 1, kUsage = 2, kUnreachable = 3, kInterrupted = 130;

enum class NodeVerb { kRun, kJoin, kServe };

struct NodeOptions {
  NodeVerb verb = NodeVerb::kRun;
  std::string model;
  std::string data_dir;
  std::string host = "127.0.0.1";
  std::optional<std::uint16_t> port;
  std::optional<std::string> listen;
  std::vector<std::string> advertise;
  std::vector<std::string> peers;
  std::string cluster_key_file;  // "-": standard input
  std::string name;
  std::string layers;
  std::uint32_t min_nodes = 1;
  bool no_layers = false;
  std::string device = "cpu";
  std::string isa;
  int threads = 0;
  std::string memory;
  std::string api_key_file;
  bool no_ui = false;
  std::string log_level = "warn";
  std::string log_format = "text";
  std::string log_file;
};

// How chat and status find a node.
struct TargetOptions {
  std::string data_dir;
  std::string url;  // "" : from the running node's node.json, else 127.0.0.1:8642
  std::optional<std::uint16_t> port;
  std::string api_key_file;
};

struct ChatOptions {
  TargetOptions target;
  std::string once;  // one question instead of a conversation
  std::optional<std::uint32_t> max_tokens;
  bool stats = false;
};

struct StatusOptions {
  TargetOptions target;
  bool json = false;
  bool check_coverage = false;
};

struct VersionOptions {
  bool json = false;
};

struct EvalCommandOptions {
  std::string model;
  std::vector<std::string> ids;
  std::string out;
  bool hidden = false;
  std::uint32_t generate = 0;
  SamplingParams sampling;
  std::vector<std::uint32_t> cuts;
  std::string backend = "cpu";
  std::string isa;
  int threads = 0;
  std::uint32_t chunk = 0;
  bool explain = false;
};

int run_node(const NodeOptions& options);
int run_chat(const ChatOptions& options);
int run_status(const StatusOptions& options);
int run_version(const VersionOptions& options);
int run_eval_command(const EvalCommandOptions& options);

}  // namespace mesh::cli
