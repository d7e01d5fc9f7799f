// Qwen2 and Qwen2.5: always a bias on q, k and v. Source: transformers, models/qwen2.
#include "model/families/families.h"

namespace mesh::model {

Result<ModelSpec> parse_qwen2(const ConfigFields& config) {
  MESH_RETURN_IF_ERROR(refuse_sliding_window(config));
  MESH_ASSIGN_OR_RETURN(ModelSpec spec, parse_dense(config, {.context = 32768}));
  spec.family = "qwen2";
  spec.qkv_bias = true;
  return spec;
}

}  // namespace mesh::model
