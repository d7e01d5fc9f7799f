#include "node/model_catalog.h"

#include <tuple>
#include <utility>

#include "model/config.h"
#include "model/fingerprint.h"
#include "model/weights.h"

namespace mesh::node {
namespace {

// Sequences of full context that a node should at least hold beside its weights.
constexpr std::uint64_t kReasonableContexts = 1;

scheduler::ModelCost model_cost(const model::ModelSpec& spec,
                                const formats::TensorSource& tensors) {
  scheduler::ModelCost cost;
  for (std::uint32_t layer = 0; layer < spec.layers; ++layer)
    cost.layer_bytes.push_back(model::layer_bytes(spec, tensors, layer));
  cost.embedding_bytes = model::embedding_bytes(spec, tensors);
  cost.head_bytes = model::head_bytes(spec, tensors);
  cost.kv_bytes_per_layer = kReasonableContexts * spec.context *
                            ops::kv_page_bytes({1, spec.kv_heads, spec.head_dim, spec.kv}) /
                            ops::kPageTokens;
  return cost;
}

// "ORG/NAME:q8" as the model and its conversion.
std::pair<std::string, formats::Quantize> split_name(const std::string& name) {
  const std::size_t colon = name.rfind(':');
  if (colon == std::string::npos) return {name, formats::Quantize::kNone};
  const auto quantize = formats::parse_quantize(name.substr(colon + 1));
  if (!quantize.ok()) return {name, formats::Quantize::kNone};
  return {name.substr(0, colon), *quantize};
}

}  // namespace

Result<OpenedModel> describe_model(formats::ModelFiles files) {
  const std::string context = fmt::format("model {} ({})", files.name, files.origin);
  Result<model::ModelSpec> spec = model::parse_config(files);
  if (!spec.ok()) return spec.error().with_context(context);
  const Result<model::SamplingDefaults> sampling =
      model::parse_sampling_defaults(files.generation_config_json);
  if (!sampling.ok()) return sampling.error().with_context(context);
  const Result<model::Fingerprint> print = model::fingerprint(*spec, *files.tensors);
  if (!print.ok()) return print.error().with_context(context);
  OpenedModel opened{std::move(files), {}, *spec, *sampling, {}};
  wire::ModelIdentity& identity = opened.local.identity;
  identity.name = opened.files.name;
  identity.fingerprint = print->value;
  identity.layers = spec->layers;
  identity.hidden = spec->hidden;
  identity.context = spec->context;
  identity.vocabulary = spec->vocabulary;
  identity.kv_dtype = ops::kv_dtype_name(spec->kv);
  opened.local.cost = model_cost(*spec, *opened.files.tensors);
  opened.local.stage_bytes = [spec = *spec, tensors = opened.files.tensors](LayerRange range) {
    return model::stage_bytes(spec, *tensors, range);
  };
  return opened;
}

Result<OpenedModel> open_local_model(const std::string& spec_text,
                                     const formats::HubEnvironment& hub,
                                     const ModelChoices& choices) {
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, formats::open_model(spec_text, hub));
  files.kv_type = choices.kv_type;
  const formats::QuantizeReport report = formats::quantize_model(files, choices.quantize);
  MESH_ASSIGN_OR_RETURN(OpenedModel opened, describe_model(std::move(files)));
  if (choices.quantize != formats::Quantize::kNone)
    opened.conversion = formats::quantize_text(choices.quantize, report);
  return opened;
}

Result<OpenedModel> find_mesh_model(const wire::ModelIdentity& wanted,
                                    const formats::HubEnvironment& hub) {
  std::string tried = "the built-in model";
  ModelChoices choices;
  std::string name;
  std::tie(name, choices.quantize) = split_name(wanted.name);
  // A type that this version does not know leaves a fingerprint that cannot be met.
  if (const auto kv_type = ops::parse_kv_dtype(wanted.kv_dtype); kv_type.ok())
    choices.kv_type = *kv_type;
  Result<OpenedModel> builtin = open_local_model("", hub, choices);
  if (builtin.ok() && builtin->local.identity.fingerprint == wanted.fingerprint) return builtin;
  if (name.find('/') != std::string::npos) {
    const std::string cache = formats::hub_cache_directory(hub);
    tried +=
        " and " + (cache.empty() ? std::string("the Hugging Face cache (no HOME is set)") : cache);
    Result<OpenedModel> cached = open_local_model(name, hub, choices);
    if (cached.ok() && cached->local.identity.fingerprint == wanted.fingerprint) return cached;
    if (cached.ok())
      tried += fmt::format(", where {} has another fingerprint, {}", wanted.name,
                           to_hex(cached->local.identity.fingerprint));
  }
  return Error(Code::kNotFound, fmt::format("the mesh serves {} (fingerprint {}), whose files are "
                                            "not here: looked at {}. Put the same "
                                            "files on this machine and name them with -m DIRECTORY",
                                            wanted.name, to_hex(wanted.fingerprint), tried));
}

}  // namespace mesh::node
