#pragma once
// What a model is, independent of how its files spell it. A family is a map from config.json and
// tensor names to this.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "tensor/dtype.h"

namespace mesh::model {

enum class RopeScaling { kNone, kLlama3, kYarn, kLinear, kFactors };

// Rotary embedding as configured; rope_table() (model/rope.h) turns it into frequencies.
struct RopeSpec {
  double theta = 10000.0;
  std::uint32_t dims = 0;  // rotated dimensions of a head
  bool interleaved = false;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double original_context = 0;                           // original_max_position_embeddings
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  double mscale = 0, mscale_all_dim = 0;                 // yarn; 0: absent
  double attention_factor = 0;                           // yarn; 0: absent
  bool truncate = true;                                  // yarn
  std::vector<double> factors =
      {};  // kFactors: what each of the dims / 2 frequencies is divided by
  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

// Mixture of experts: every layer that is not listed as dense has a router and experts in the place
// of its MLP.
struct MoeSpec {
  std::uint32_t experts = 0;       // of a layer; 0: the model has none, and all else is 0 too
  std::uint32_t top_k = 0;         // chosen by a row
  std::uint32_t intermediate = 0;  // of one expert
  std::uint32_t shared_intermediate = 0;  // of the expert that every row uses, gated; 0: none
  bool normalise = false;                 // weights of the chosen experts sum to 1
  std::vector<std::uint32_t> dense_layers = {};  // ascending
  friend bool operator==(const MoeSpec&, const MoeSpec&) = default;
};

struct ModelSpec {
  std::string family;  // "llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"
  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t intermediate = 0;  // of the MLP of dense layers
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t vocabulary = 0;
  std::uint32_t context = 0;  // max_position_embeddings
  float norm_eps = 1e-6f;
  bool tied = false;  // the head is the embedding
  bool qkv_bias = false;
  bool o_bias = false;
  bool qk_norm = false;  // RMSNorm per head on q and k
  RopeSpec rope;
  MoeSpec moe;
  std::vector<TokenId> stop_ids;  // union of config.json and generation_config.json, ascending
  // Type of the residual stream: f32 if the token embedding is F32, else bf16.
  tensor::DType residual = tensor::DType::kBF16;
  // What the KV cache is kept in: the type of the residual stream unless the model was opened with
  // another (formats::ModelFiles::kv_type).
  tensor::DType kv = tensor::DType::kBF16;
  bool is_moe(std::uint32_t layer) const {
    return moe.experts > 0 &&
           !std::binary_search(moe.dense_layers.begin(), moe.dense_layers.end(), layer);
  }
  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

}  // namespace mesh::model
