#pragma once
// A GGUF model in the hub's spelling: configuration, tokenizer and tensor names as a directory of
// Hugging Face would give them, so that everything behind open_model() knows one spelling only.

#include "base/result.h"
#include "formats/gguf.h"
#include "formats/model_files.h"

namespace mesh::formats {

// Architectures llama, qwen2, qwen3, qwen2moe, qwen3moe.
//  - config_json: metadata as config.json; llama's rope_freqs.weight becomes rope_scaling
//    {"rope_type": "factors", "factors": […]} with one divisor per frequency.
//  - tokenizer_json, tokenizer_config_json, chat_template: tokenizer.ggml.* of model "gpt2", the
//    pre-tokenizer by name.
//  - tensors: hub names, [out, in]; the q and k rows of llama files in the hub's order again;
//    blk.N.ffn_*_exps stay one tensor [experts, out, in] named
//    model.layers.N.mlp.experts.{gate,up,down}_proj.weight.
// Errors: unsupported (architecture, tokenizer model, pre-tokenizer, each by name), corrupt
// (metadata of wrong type, sizes that disagree), not_found (a key that is needed).
Result<ModelFiles> gguf_model_files(GgufModel gguf);

}  // namespace mesh::formats
