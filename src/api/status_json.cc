#include "api/status_json.h"

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/version.h"

namespace mesh::api {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json missing(const node::MeshStatus& status) {
  Json out = Json::array();
  for (const LayerRange& range : status.missing) out.push_back(range.to_string());
  return out;
}

Json node_object(const node::NodeStatus& n) {
  return {{"id", n.id.to_string()},
          {"name", n.name},
          {"self", n.self},
          {"state", n.state},
          {"problem", n.problem},
          {"http", n.http},
          {"peer", n.peer},
          {"device", n.device},
          {"layers", Json::array({n.layers.begin, n.layers.end})},
          {"bytes_loaded", n.bytes_loaded},
          {"bytes_expected", n.bytes_expected},
          {"rows_computed", n.rows_computed},
          {"pages_total", n.pages_total},
          {"pages_used", n.pages_used},
          {"tokens_per_s", n.tokens_per_s},
          {"rtt_ms", n.rtt_ms}};
}

Json model_object(const node::MeshStatus& status, std::int64_t created) {
  return {{"id", status.model},
          {"object", "model"},
          {"created", created},
          {"owned_by", "toolkit-mesh"},
          {"max_model_len", status.context},
          {"meta", {{"layers", status.layers}, {"ready", status.ready}}}};
}

}  // namespace

std::string mesh_status_json(const node::MeshStatus& status) {
  Json nodes = Json::array();
  for (const node::NodeStatus& n : status.nodes) nodes.push_back(node_object(n));
  return dump({{"mesh",
                {{"version", status.version},
                 {"numeric_class", status.numeric_class},
                 {"self_test", to_hex(status.self_test)},
                 {"cluster", status.cluster},
                 {"epoch", status.epoch.value},
                 {"ready", status.ready},
                 {"layers", status.layers},
                 {"missing_layers", missing(status)},
                 {"waiting_for", status.waiting_for},
                 {"tokens_per_s", status.tokens_per_s},
                 {"requests_running", status.requests_running},
                 {"requests_waiting", status.requests_waiting}}},
               {"model",
                {{"name", status.model},
                 {"fingerprint", to_hex(status.fingerprint)},
                 {"layers", status.layers},
                 {"context", status.context},
                 {"kv_dtype", status.kv_dtype}}},
               {"nodes", std::move(nodes)}});
}

std::string ready_json(const node::MeshStatus& status) {
  return dump({{"ready", status.ready},
               {"missing_layers", missing(status)},
               {"waiting_for", status.waiting_for}});
}

std::string version_json(const node::MeshStatus& status) {
  return dump({{"version", std::string(engine_version())},
               {"protocol", kProtocolVersion},
               {"numeric_class", status.numeric_class}});
}

std::string models_json(const node::MeshStatus& status, std::int64_t created) {
  Json data = Json::array();
  if (!status.model.empty()) data.push_back(model_object(status, created));
  return dump({{"object", "list"}, {"data", std::move(data)}});
}

std::string model_json(const node::MeshStatus& status, std::int64_t created) {
  return dump(model_object(status, created));
}

}  // namespace mesh::api
