#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "model/families/families.h"

namespace mesh::model {
namespace {

Error unsupported(const std::string& what) {
  return Error(Code::kUnsupported, fmt::format("config.json: {}, which is not supported", what));
}

Result<void> parse_sizes(const ConfigFields& config, const DenseDefaults& defaults,
                         ModelSpec& spec) {
  MESH_ASSIGN_OR_RETURN(spec.layers, config.whole("num_hidden_layers", 1, limits::kLayers));
  MESH_ASSIGN_OR_RETURN(spec.hidden, config.whole("hidden_size", 1, limits::kHidden));
  MESH_ASSIGN_OR_RETURN(spec.intermediate,
                        config.whole("intermediate_size", 1, limits::kIntermediate));
  MESH_ASSIGN_OR_RETURN(spec.heads, config.whole("num_attention_heads", 1, limits::kHeads));
  MESH_ASSIGN_OR_RETURN(spec.kv_heads,
                        config.whole("num_key_value_heads", 1, limits::kHeads,
                                     defaults.kv_heads != 0 ? defaults.kv_heads : spec.heads));
  MESH_ASSIGN_OR_RETURN(spec.vocabulary, config.whole("vocab_size", 1, limits::kVocabulary));
  MESH_ASSIGN_OR_RETURN(
      spec.context, config.whole("max_position_embeddings", 1, limits::kContext, defaults.context));
  if (spec.heads % spec.kv_heads != 0)
    return Error(
        Code::kInvalidArgument,
        fmt::format("config.json: num_attention_heads {} is no multiple of num_key_value_heads {}",
                    spec.heads, spec.kv_heads));
  const std::uint32_t head_dim =
      defaults.head_dim != 0 ? defaults.head_dim : spec.hidden / spec.heads;
  if (!config.has("head_dim") && defaults.head_dim == 0 && spec.hidden % spec.heads != 0)
    return Error(
        Code::kInvalidArgument,
        fmt::format(
            "config.json: hidden_size {} is no multiple of num_attention_heads {}, and there is no "
            "head_dim",
            spec.hidden, spec.heads));
  MESH_ASSIGN_OR_RETURN(spec.head_dim, config.whole("head_dim", 2, limits::kHeadDim, head_dim));
  if (spec.head_dim < 2 || spec.head_dim % 2 != 0)
    return Error(
        Code::kInvalidArgument,
        fmt::format("config.json: head_dim is {}, it must be even and at least 2", spec.head_dim));
  return {};
}

Result<void> parse_yarn(const ConfigFields& rope, std::uint32_t context, RopeSpec& spec) {
  spec.scaling = RopeScaling::kYarn;
  MESH_ASSIGN_OR_RETURN(spec.factor, rope.number("factor", 1.0, 1e6));
  MESH_ASSIGN_OR_RETURN(spec.original_context, rope.number("original_max_position_embeddings", 1.0,
                                                           limits::kContext, context));
  MESH_ASSIGN_OR_RETURN(spec.beta_fast, rope.number("beta_fast", 1e-6, 1e6, 32.0));
  MESH_ASSIGN_OR_RETURN(spec.beta_slow, rope.number("beta_slow", 1e-6, 1e6, 1.0));
  MESH_ASSIGN_OR_RETURN(spec.mscale, rope.number("mscale", 0.0, 1e3, 0.0));
  MESH_ASSIGN_OR_RETURN(spec.mscale_all_dim, rope.number("mscale_all_dim", 0.0, 1e3, 0.0));
  MESH_ASSIGN_OR_RETURN(spec.attention_factor, rope.number("attention_factor", 1e-6, 1e3, 0.0));
  MESH_ASSIGN_OR_RETURN(spec.truncate, rope.flag("truncate", true));
  return {};
}

Result<void> parse_llama3(const ConfigFields& rope, RopeSpec& spec) {
  spec.scaling = RopeScaling::kLlama3;
  MESH_ASSIGN_OR_RETURN(spec.factor, rope.number("factor", 1.0, 1e6));
  MESH_ASSIGN_OR_RETURN(spec.original_context,
                        rope.number("original_max_position_embeddings", 1.0, limits::kContext));
  MESH_ASSIGN_OR_RETURN(spec.low_freq_factor, rope.number("low_freq_factor", 1e-6, 1e6));
  MESH_ASSIGN_OR_RETURN(spec.high_freq_factor, rope.number("high_freq_factor", 1e-6, 1e6));
  if (spec.low_freq_factor >= spec.high_freq_factor)
    return Error(Code::kInvalidArgument,
                 fmt::format("config.json: low_freq_factor {} is not below high_freq_factor {}",
                             spec.low_freq_factor, spec.high_freq_factor));
  return {};
}

// How a file that holds only the outcome of a scaling gives it (rope_freqs.weight of GGUF).
Result<void> parse_factors(const ConfigFields& rope, RopeSpec& spec) {
  spec.scaling = RopeScaling::kFactors;
  MESH_ASSIGN_OR_RETURN(spec.factors, rope.numbers("factors", 1e-6, 1e6));
  if (spec.factors.size() != spec.dims / 2)
    return Error(Code::kInvalidArgument,
                 fmt::format("config.json: factors has {} numbers, heads of {} need {}",
                             spec.factors.size(), spec.dims, spec.dims / 2));
  return {};
}

}  // namespace

Result<RopeSpec> parse_rope(const ConfigFields& config, std::uint32_t head_dim,
                            std::uint32_t context) {
  const bool is_v5 = config.has("rope_parameters");
  MESH_ASSIGN_OR_RETURN(const ConfigFields rope,
                        config.object(is_v5 ? "rope_parameters" : "rope_scaling"));
  const ConfigFields& theta_from = rope.has("rope_theta") ? rope : config;
  const ConfigFields& partial_from = rope.has("partial_rotary_factor") ? rope : config;
  RopeSpec spec;
  spec.dims = head_dim;
  // Above 1, since yarn divides by the logarithm.
  MESH_ASSIGN_OR_RETURN(spec.theta, theta_from.number("rope_theta", 1.0 + 1e-6, 1e12, 10000.0));
  MESH_ASSIGN_OR_RETURN(const double partial,
                        partial_from.number("partial_rotary_factor", 0.0, 1.0, 1.0));
  if (partial != 1.0) return unsupported(fmt::format("partial_rotary_factor is {}", partial));
  MESH_ASSIGN_OR_RETURN(const std::string old_type, rope.text("type", "default"));
  MESH_ASSIGN_OR_RETURN(const std::string type, rope.text("rope_type", old_type));
  if (type == "linear") {
    spec.scaling = RopeScaling::kLinear;
    MESH_ASSIGN_OR_RETURN(spec.factor, rope.number("factor", 1.0, 1e6));
  } else if (type == "llama3") {
    MESH_RETURN_IF_ERROR(parse_llama3(rope, spec));
  } else if (type == "yarn") {
    MESH_RETURN_IF_ERROR(parse_yarn(rope, context, spec));
  } else if (type == "factors") {
    MESH_RETURN_IF_ERROR(parse_factors(rope, spec));
  } else if (type != "default") {
    return unsupported(
        fmt::format("rope type \"{}\" (of default, factors, linear, llama3, yarn)", type));
  }
  return spec;
}

Result<void> refuse_sliding_window(const ConfigFields& config) {
  MESH_ASSIGN_OR_RETURN(const bool used, config.flag("use_sliding_window", false));
  if (used) return unsupported("use_sliding_window is true");
  MESH_ASSIGN_OR_RETURN(const std::vector<std::string> types, config.texts("layer_types"));
  for (const std::string& type : types)
    if (type != "full_attention") return unsupported(fmt::format("layer_types holds \"{}\"", type));
  return {};
}

Result<ModelSpec> parse_dense(const ConfigFields& config, const DenseDefaults& defaults) {
  ModelSpec spec;
  MESH_RETURN_IF_ERROR(parse_sizes(config, defaults, spec));
  MESH_ASSIGN_OR_RETURN(const std::string activation, config.text("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish")
    return unsupported(fmt::format("hidden_act is \"{}\"", activation));
  if (config.has("quantization_config")) return unsupported("quantization_config is given");
  MESH_ASSIGN_OR_RETURN(const double eps, config.number("rms_norm_eps", 1e-12, 1.0, 1e-6));
  spec.norm_eps = static_cast<float>(eps);
  MESH_ASSIGN_OR_RETURN(spec.tied, config.flag("tie_word_embeddings", false));
  MESH_ASSIGN_OR_RETURN(spec.rope, parse_rope(config, spec.head_dim, spec.context));
  return spec;
}

}  // namespace mesh::model
