// Qwen3 dense: RMSNorm per head on q and k, heads wider than hidden / heads. Source: transformers,
// models/qwen3.
#include "model/families/families.h"

namespace mesh::model {

Result<ModelSpec> parse_qwen3(const ConfigFields& config) {
  MESH_RETURN_IF_ERROR(refuse_sliding_window(config));
  MESH_ASSIGN_OR_RETURN(ModelSpec spec, parse_dense(config, {.context = 32768, .head_dim = 128}));
  MESH_ASSIGN_OR_RETURN(const bool attention_bias, config.flag("attention_bias", false));
  spec.family = "qwen3";
  spec.qkv_bias = spec.o_bias = attention_bias;
  spec.qk_norm = true;
  return spec;
}

}  // namespace mesh::model
