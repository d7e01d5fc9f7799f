#include "cli/options.h"

#include <algorithm>

namespace mesh::cli {
namespace {

// Strongest first, as in Origin; a URL and a port may come from different places.
bool stronger(Origin a, Origin b) {
  return static_cast<int>(a) < static_cast<int>(b);
}

std::string with_scheme(std::string url) {
  if (url.find("://") == std::string::npos) url = "http://" + url;
  while (!url.empty() && url.back() == '/') url.pop_back();
  return url;
}

// OPENAI_BASE_URL names the folder of the OpenAI routes, mostly /v1.
void take_openai(TargetOptions& target, const std::string& base) {
  target.openai = true;
  target.url = with_scheme(base);
  const std::string& url = target.url;
  if (url.size() > 3 && url.compare(url.size() - 3, 3, "/v1") == 0)
    target.url = url.substr(0, url.size() - 3);
  else
    target.api_prefix = "";
}

TargetOptions target_options(const Settings& s, const std::string& openai_base_url) {
  TargetOptions out;
  out.api_key_file = s.text("api-key-file");
  out.api_key_file_origin = s.value("api-key-file").origin;
  out.data_dir = s.text("data-dir");
  const Origin url = s.value("url").origin;
  const Origin port = s.value("port").origin, data_dir = s.value("data-dir").origin;
  const Origin strongest = std::min({url, port, data_dir});
  if (!openai_base_url.empty() && stronger(Origin::kEnvironment, strongest)) {
    take_openai(out, openai_base_url);
    return out;
  }
  // The data directory alone does not beat an address of the same origin.
  if (s.has("url") && !stronger(port, url) && !stronger(data_dir, url))
    out.url = with_scheme(s.text("url"));
  else if (s.has("port") && !stronger(data_dir, port))
    out.port = static_cast<std::uint16_t>(*s.whole("port"));
  return out;
}

// A model that comes from the mesh comes as the mesh computes it.
Result<void> check_choices(const NodeOptions& o, const Settings& s) {
  if (!o.model.empty()) return {};
  for (const char* name : {"quantize", "kv-dtype"}) {
    const SettingValue value = s.value(name);
    if (value.origin == Origin::kFlag || value.origin == Origin::kEnvironment)
      return Error(
          Code::kInvalidArgument,
          fmt::format("{} {}: without -m the model is the mesh's, with the mesh's choices; "
                      "give them where it was started, or name the model",
                      value.source, s.text(name)));
  }
  return {};
}

}  // namespace

Result<NodeOptions> node_options(NodeVerb verb, const Settings& s) {
  NodeOptions o;
  o.verb = verb;
  o.model = s.text("model");
  o.data_dir = s.text("data-dir");
  o.host = s.text("host");
  if (const auto port = s.whole("port")) o.port = static_cast<std::uint16_t>(*port);
  o.name = s.text("name");
  o.device = s.text("device");
  o.isa = s.text("isa");
  o.quantize = s.text("quantize");
  o.kv_dtype = s.text("kv-dtype");
  o.threads = static_cast<int>(s.whole("threads").value_or(0));
  o.memory = s.size("memory").value_or(0);
  o.kv_memory = s.size("kv-memory").value_or(0);
  o.max_queue = static_cast<std::size_t>(s.whole("max-queue").value_or(limits::kWaitingRequests));
  o.api_key_file = s.text("api-key-file");
  o.api_key_file_origin = s.value("api-key-file").origin;
  o.cors_origins = s.texts("cors-origins");
  o.no_ui = s.on("no-ui");
  o.quiet = s.on("quiet");
  o.log_level = s.text("log-level");
  o.log_format = s.text("log-format");
  o.log_file = s.text("log-file");
  if (o.memory > 0 && o.kv_memory >= o.memory)
    return Error(Code::kInvalidArgument,
                 fmt::format("--kv-memory {} is part of --memory {}, which leaves nothing for the "
                             "weights",
                             s.text("kv-memory"), s.text("memory")));
  if (verb == NodeVerb::kServe) return o;
  o.listen = s.maybe_text("listen");
  o.advertise = s.texts("advertise");
  o.peers = s.texts("peer");
  o.layers = s.text("layers");
  o.min_nodes = static_cast<std::uint32_t>(s.whole("min-nodes").value_or(1));
  o.no_layers = s.on("no-layers");
  if (verb == NodeVerb::kJoin) {
    o.cluster_key_file = s.text("cluster-key-file");
    MESH_RETURN_IF_ERROR(check_choices(o, s));
  }
  if (o.no_layers && !o.layers.empty())
    return Error(Code::kInvalidArgument, "--layers and --no-layers contradict each other");
  return o;
}

ChatOptions chat_options(const Settings& s, const std::string& openai_base_url) {
  ChatOptions o;
  o.target = target_options(s, openai_base_url);
  o.once = s.text("once");
  o.model = s.text("model");
  o.system = s.text("system");
  o.temperature = s.number("temperature");
  o.seed = s.whole("seed");
  if (const auto most = s.whole("max-tokens")) o.max_tokens = static_cast<std::uint32_t>(*most);
  if (s.has("stats")) o.stats = s.on("stats");
  return o;
}

StatusOptions status_options(const Settings& s) {
  StatusOptions o;
  o.target = target_options(s, "");
  o.json = s.on("json");
  o.watch = s.on("watch");
  o.check_coverage = s.on("check-coverage");
  return o;
}

}  // namespace mesh::cli
