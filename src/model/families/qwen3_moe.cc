// Qwen3-MoE: Qwen3 with experts and no shared one. Source: transformers, models/qwen3_moe.
#include "model/families/families.h"

namespace mesh::model {

Result<ModelSpec> parse_qwen3_moe(const ConfigFields& config) {
  MESH_RETURN_IF_ERROR(refuse_sliding_window(config));
  // Unlike Qwen3, an absent head_dim means hidden_size / num_attention_heads.
  MESH_ASSIGN_OR_RETURN(ModelSpec spec, parse_dense(config, {.context = 32768, .kv_heads = 4}));
  MESH_ASSIGN_OR_RETURN(
      spec.moe, parse_moe(config, {.experts = 128, .top_k = 8, .intermediate = 768}, spec.layers));
  MESH_ASSIGN_OR_RETURN(const bool attention_bias, config.flag("attention_bias", false));
  spec.family = "qwen3_moe";
  spec.qkv_bias = spec.o_bias = attention_bias;
  spec.qk_norm = true;
  return spec;
}

}  // namespace mesh::model
