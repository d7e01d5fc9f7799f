#pragma once
// What each family's file defines; the table that uses it is registry.cc.

#include <cstdint>

#include "base/result.h"
#include "model/config_fields.h"
#include "model/spec.h"

namespace mesh::model {

Result<ModelSpec> parse_llama(const ConfigFields& config);
Result<ModelSpec> parse_qwen2(const ConfigFields& config);
Result<ModelSpec> parse_qwen2_moe(const ConfigFields& config);
Result<ModelSpec> parse_qwen3(const ConfigFields& config);
Result<ModelSpec> parse_qwen3_moe(const ConfigFields& config);

// --- shared by dense families with grouped-query attention (dense.cc)
// What a configuration that omits a field means; transformers drops fields that equal the class
// default.
struct DenseDefaults {
  std::uint32_t context = 0;
  std::uint32_t head_dim = 0;  // 0: hidden_size / num_attention_heads
  std::uint32_t kv_heads = 0;  // 0: num_attention_heads
};

// Sizes, norm, rope, tied. Refuses activations other than silu, quantised checkpoints and odd rope
// types.
Result<ModelSpec> parse_dense(const ConfigFields& config, const DenseDefaults& defaults);

// --- shared by families with softmax routing over all experts (moe.cc)
// As DenseDefaults.
struct MoeDefaults {
  std::uint32_t experts = 0;
  std::uint32_t top_k = 0;
  std::uint32_t intermediate = 0;
};

// Number and sizes of experts, both spellings, and which of `layers` have them: a layer that
// mlp_only_layers does not name and whose number, counted from 1, is a multiple of
// decoder_sparse_step. No such layer: an empty spec.
Result<MoeSpec> parse_moe(const ConfigFields& config, const MoeDefaults& defaults,
                          std::uint32_t layers);

// Refuses use_sliding_window and layer_types other than full attention; an unused sliding_window
// means nothing.
Result<void> refuse_sliding_window(const ConfigFields& config);

// rope_parameters (transformers 5), or rope_theta and rope_scaling (transformers 4).
Result<RopeSpec> parse_rope(const ConfigFields& config, std::uint32_t head_dim,
                            std::uint32_t context);

}  // namespace mesh::model
