// Qwen1.5-MoE and Qwen2-MoE: Qwen2 with experts and a shared expert behind a sigmoid gate. Source:
// transformers, models/qwen2_moe.
#include "base/limits.h"
#include "model/families/families.h"

namespace mesh::model {

Result<ModelSpec> parse_qwen2_moe(const ConfigFields& config) {
  MESH_RETURN_IF_ERROR(refuse_sliding_window(config));
  MESH_ASSIGN_OR_RETURN(ModelSpec spec, parse_dense(config, {.context = 32768, .kv_heads = 16}));
  MESH_ASSIGN_OR_RETURN(
      spec.moe, parse_moe(config, {.experts = 60, .top_k = 4, .intermediate = 1408}, spec.layers));
  if (spec.moe.experts > 0) {
    MESH_ASSIGN_OR_RETURN(
        spec.moe.shared_intermediate,
        config.whole("shared_expert_intermediate_size", 1, limits::kIntermediate, 5632));
  }
  MESH_ASSIGN_OR_RETURN(spec.qkv_bias, config.flag("qkv_bias", true));
  spec.family = "qwen2_moe";
  return spec;
}

}  // namespace mesh::model
