#pragma once
// Seeded models of any shape for tests, measurements and simulations: files as a publisher would
// give them, weights generated when they are read.

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "formats/model_files.h"
#include "model/spec.h"
#include "tensor/dtype.h"

namespace mesh::model {

struct RandomModelOptions {
  std::string family = "llama";  // "llama", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"
  std::uint32_t layers = 4;
  std::uint32_t hidden = 64;
  std::uint32_t intermediate = 128;
  std::uint32_t heads = 4;
  std::uint32_t kv_heads = 2;
  std::uint32_t head_dim = 16;
  std::uint32_t vocabulary = 320;
  std::uint32_t context = 2048;
  double rope_theta = 10000.0;
  float norm_eps = 1e-6f;
  // Of the matrices: f32 or bf16, which hold the same values, or a quantised type. Vectors of a
  // quantised model are f32.
  tensor::DType dtype = tensor::DType::kBF16;
  // Embedding, head, and in every second layer v_proj and down_proj are Q6_K, as in the mixtures
  // that llama.cpp's quantiser calls _M.
  bool mixed = false;
  bool tied = false;
  // Of the families with experts; other families have none.
  std::uint32_t experts = 8;
  std::uint32_t top_k = 2;
  std::uint32_t expert_intermediate = 32;
  std::uint32_t shared_intermediate = 96;  // qwen2_moe
  bool normalise = true;                   // norm_topk_prob
  std::uint32_t sparse_step = 1;  // decoder_sparse_step: every how many layers have experts
  std::vector<std::uint32_t> mlp_only_layers = {};
  // A tokenizer of 256 bytes and three specials with a ChatML template; its end of turn is the stop
  // id. Without it the model has no stop id and runs to the token limit. Needs a vocabulary of at
  // least kByteTokenizerIds.
  bool tokenizer = false;
  std::uint64_t seed = 1;
};

// Ids of the byte-level tokenizer: 0..255 in the order of the byte alphabet, then the specials.
inline constexpr std::uint32_t kByteTokenizerIds = 259;
inline constexpr TokenId kEndOfTextId = 256;  // <|endoftext|>
inline constexpr TokenId kTurnStartId = 257;  // <|im_start|>
inline constexpr TokenId kTurnEndId = 258;    // <|im_end|>

// A model in memory that takes no memory: each read computes the asked elements. The definition,
// which the fixtures in tests/data/models follow too, with mix() = splitmix64():
//   key = mix(fnv1a64(tensor name) xor mix(seed)); word = mix(key + index · 0x9E3779B97F4A7C15);
//   unit = (word >> 11) · 2⁻⁵³; value = low + (high - low) · unit in f64, rounded to f32, to bf16.
// Ranges: norms 0.5..1.5, biases ±0.3·√3, routers ±4·√3 / √in, all others ±√3 / √in. Blocks of
// quantised types: model/random_blocks.h, by the same key. Errors: those of parse_config() for
// impossible shapes, invalid_argument (type, vocabulary too small, rows that are not whole blocks).
Result<formats::ModelFiles> make_random_model(const RandomModelOptions& options);

// Writes the files of a model to a directory that is made if needed: texts that are not empty and
// one model.safetensors. One tensor is in memory at a time. Errors: unavailable (disk), and those
// of reading.
Result<void> write_model(const std::string& directory, const formats::ModelFiles& files);

}  // namespace mesh::model
