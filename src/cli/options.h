#pragma once
// What the command line asks for, one struct per verb. Made from settings (settings.h); cmd_*.cc
// carry them out.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/result.h"
#include "base/sampling.h"
#include "cli/exit_codes.h"
#include "cli/settings.h"

namespace mesh::cli {

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
  std::string quantize;
  std::string kv_dtype;
  int threads = 0;
  std::uint64_t memory = 0;     // bytes; 0: 80 % of what is free
  std::uint64_t kv_memory = 0;  // bytes; 0: a quarter of memory
  std::size_t max_queue = limits::kWaitingRequests;
  std::string api_key_file;
  Origin api_key_file_origin = Origin::kUnset;
  std::vector<std::string> cors_origins;
  bool no_ui = false;
  bool quiet = false;
  std::string log_level = "warn";
  std::string log_format = "text";
  std::string log_file;
};

// How chat and status find a node, and with what key.
struct TargetOptions {
  std::string data_dir;
  std::string url;                 // "" : from the running node's node.json, else 127.0.0.1:8642
  std::string api_prefix = "/v1";  // of the OpenAI routes below url
  std::optional<std::uint16_t> port;
  std::string api_key_file;
  Origin api_key_file_origin = Origin::kUnset;
  bool openai = false;       // url is OPENAI_BASE_URL: any server, with OPENAI_API_KEY
  int deadline_ms = 30'000;  // of a request that is no stream
};

struct ChatOptions {
  TargetOptions target;
  std::string once;   // one question instead of a conversation
  std::string model;  // "": the first that is served
  std::string system;
  std::optional<double> temperature;
  std::optional<std::uint64_t> seed;
  std::optional<std::uint32_t> max_tokens;
  std::optional<bool> stats;  // none: in a conversation on a terminal
};

struct StatusOptions {
  TargetOptions target;
  bool json = false;
  bool watch = false;
  bool check_coverage = false;
};

struct VersionOptions {
  bool json = false;
};

enum class ConfigAction { kShow, kPath, kSet, kUnset };

struct ConfigOptions {
  ConfigAction action = ConfigAction::kShow;
  std::string file;  // --config
  std::string key;
  std::vector<std::string> values;
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
  std::string quantize;
  std::string kv_dtype;
  int threads = 0;
  std::uint32_t chunk = 0;
  bool explain = false;
};

struct BenchOptions {
  std::string model;      // as for run, when `synthetic` is empty
  std::string synthetic;  // a shape of model/synthetic_shapes.h
  std::string weights = "q4_0";
  std::string quantize;
  std::string kv_dtype;
  std::uint32_t stages = 1;
  int threads = 0;  // of each stage; 0: the cores, shared among the stages
  std::string isa;
  std::vector<std::uint32_t> prompts = {512};
  std::vector<std::uint32_t> streams = {1, 4, 8, 16};
  std::uint32_t tokens = 48;
  std::uint32_t repeats = 3;
  bool json = false;
};

// Settings of one verb as its options. Errors: invalid_argument (settings that contradict).
Result<NodeOptions> node_options(NodeVerb verb, const Settings& settings);
// `openai_base_url`: of the environment, "" if unset. A flag beats it, the config file does not.
ChatOptions chat_options(const Settings& settings, const std::string& openai_base_url);
StatusOptions status_options(const Settings& settings);

int run_node(const NodeOptions& options);
int run_chat(const ChatOptions& options);
int run_status(const StatusOptions& options);
int run_version(const VersionOptions& options);
int run_config(const ConfigOptions& options);
int run_bench(const BenchOptions& options);
int run_eval_command(const EvalCommandOptions& options);

}  // namespace mesh::cli
