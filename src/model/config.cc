#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "model/config_fields.h"
#include "model/registry.h"
#include "model/weights.h"

namespace mesh::model {
namespace {

std::string_view scaling_name(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLlama3:
      return "llama3";
    case RopeScaling::kYarn:
      return "yarn";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kFactors:
      return "factors";
  }
  return "";
}

// The two files disagree for several families, so the union counts.
Result<std::vector<TokenId>> parse_stop_ids(const ConfigFields& config,
                                            const std::string& generation_config_json,
                                            std::uint32_t vocabulary) {
  MESH_ASSIGN_OR_RETURN(std::vector<std::int64_t> ids, config.integers("eos_token_id"));
  if (!generation_config_json.empty()) {
    MESH_ASSIGN_OR_RETURN(const ConfigFields generation,
                          ConfigFields::parse(generation_config_json, "generation_config.json"));
    MESH_ASSIGN_OR_RETURN(const std::vector<std::int64_t> more,
                          generation.integers("eos_token_id"));
    ids.insert(ids.end(), more.begin(), more.end());
  }
  std::vector<TokenId> stops;
  for (const std::int64_t id : ids)  // an id beyond the vocabulary can never be sampled
    if (id >= 0 && id < static_cast<std::int64_t>(vocabulary))
      stops.push_back(static_cast<TokenId>(id));
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  if (stops.size() > limits::kStopIds)
    return Error(Code::kInvalidArgument,
                 fmt::format("eos_token_id: {} ids, at most {}", stops.size(), limits::kStopIds));
  return stops;
}

Result<ModelSpec> parse(const formats::ModelFiles& files) {
  MESH_ASSIGN_OR_RETURN(const ConfigFields config,
                        ConfigFields::parse(files.config_json, "config.json"));
  MESH_ASSIGN_OR_RETURN(const Family* family, find_family(config));
  MESH_ASSIGN_OR_RETURN(ModelSpec spec, family->parse(config));
  MESH_ASSIGN_OR_RETURN(spec.stop_ids,
                        parse_stop_ids(config, files.generation_config_json, spec.vocabulary));
  const tensor::TensorInfo* embedding = files.tensors->find(kEmbeddingTensor);
  if (embedding == nullptr)
    return Error(Code::kNotFound, fmt::format("no tensor {}", kEmbeddingTensor));
  spec.residual =
      embedding->dtype == tensor::DType::kF32 ? tensor::DType::kF32 : tensor::DType::kBF16;
  spec.kv = files.kv_type.value_or(spec.residual);
  return spec;
}

}  // namespace

Result<ModelSpec> parse_config(const formats::ModelFiles& files) {
  auto spec = parse(files);
  if (!spec.ok()) return spec.error().with_context(files.name.empty() ? files.origin : files.name);
  return spec;
}

std::string canonical_text(const ModelSpec& spec) {
  std::string text;
  const auto line = [&](std::string_view name, auto value) {
    text += fmt::format("{}={}\n", name, value);
  };
  const auto exact = [&](std::string_view name, double value) {
    text += fmt::format("{}={:a}\n", name, value);
  };
  line("family", spec.family);
  line("layers", spec.layers);
  line("hidden", spec.hidden);
  line("intermediate", spec.intermediate);
  line("heads", spec.heads);
  line("kv_heads", spec.kv_heads);
  line("head_dim", spec.head_dim);
  line("vocabulary", spec.vocabulary);
  line("context", spec.context);
  exact("norm_eps", spec.norm_eps);
  line("tied", spec.tied);
  line("qkv_bias", spec.qkv_bias);
  line("o_bias", spec.o_bias);
  line("qk_norm", spec.qk_norm);
  exact("rope.theta", spec.rope.theta);
  line("rope.dims", spec.rope.dims);
  line("rope.interleaved", spec.rope.interleaved);
  line("rope.scaling", scaling_name(spec.rope.scaling));
  exact("rope.factor", spec.rope.factor);
  exact("rope.original_context", spec.rope.original_context);
  exact("rope.low_freq_factor", spec.rope.low_freq_factor);
  exact("rope.high_freq_factor", spec.rope.high_freq_factor);
  exact("rope.beta_fast", spec.rope.beta_fast);
  exact("rope.beta_slow", spec.rope.beta_slow);
  exact("rope.mscale", spec.rope.mscale);
  exact("rope.mscale_all_dim", spec.rope.mscale_all_dim);
  exact("rope.attention_factor", spec.rope.attention_factor);
  line("rope.truncate", spec.rope.truncate);
  for (const double factor : spec.rope.factors) exact("rope.divisor", factor);
  if (spec.moe.experts > 0) {  // a dense model's text knows nothing of experts
    line("moe.experts", spec.moe.experts);
    line("moe.top_k", spec.moe.top_k);
    line("moe.intermediate", spec.moe.intermediate);
    line("moe.shared_intermediate", spec.moe.shared_intermediate);
    line("moe.normalise", spec.moe.normalise);
    line("moe.dense_layers", fmt::format("{}", fmt::join(spec.moe.dense_layers, ",")));
  }
  line("stop_ids", fmt::format("{}", fmt::join(spec.stop_ids, ",")));
  line("residual", tensor::dtype_name(spec.residual));
  if (spec.kv != spec.residual) line("kv", tensor::dtype_name(spec.kv));
  return text;
}

}  // namespace mesh::model
