// Llama 2 and 3.x, and checkpoints that reuse its class. Source: transformers, models/llama.
#include "model/families/families.h"

namespace mesh::model {

Result<ModelSpec> parse_llama(const ConfigFields& config) {
  MESH_ASSIGN_OR_RETURN(ModelSpec spec, parse_dense(config, {.context = 2048}));
  MESH_ASSIGN_OR_RETURN(const bool attention_bias, config.flag("attention_bias", false));
  MESH_ASSIGN_OR_RETURN(const bool mlp_bias, config.flag("mlp_bias", false));
  if (mlp_bias)
    return Error(Code::kUnsupported, "config.json: mlp_bias is true, which is not supported");
  spec.family = "llama";
  spec.qkv_bias = spec.o_bias = attention_bias;
  return spec;
}

}  // namespace mesh::model
