#pragma once
// Tensors of a GGUF file under the names, and in the row order, that Hugging Face publishes them.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "formats/tensor_source.h"

namespace mesh::formats {

// Sets of architectures, as bits: what a tensor name may occur in.
namespace gguf_architecture {
constexpr unsigned kLlama = 1;
constexpr unsigned kQwen2 = 2;
constexpr unsigned kQwen3 = 4;
constexpr unsigned kQwen2Moe = 8;
constexpr unsigned kQwen3Moe = 16;
}  // namespace gguf_architecture

// "model.layers.7.self_attn.q_proj.weight" for "blk.7.attn_q.weight"; "" if the architecture knows
// no such tensor.
std::string gguf_hub_name(std::string_view name, unsigned architecture);

// Files of llama hold the rows of q and k in the order that its rotation of neighbours wants: row
// (head, half * head_dim / 2 + j) of the hub at (head, 2 j + half). The view gives them in the
// hub's order; a read of few rows reads those, any other whole heads. rope_freqs.weight is hidden
// (the configuration holds it). Errors: unsupported (a tensor that the architecture does not know:
// the model would compute something else), corrupt (q or k rows that are not whole heads).
Result<std::shared_ptr<TensorSource>> gguf_hub_tensors(std::shared_ptr<TensorSource> file,
                                                       unsigned architecture,
                                                       std::uint64_t head_dim);

}  // namespace mesh::formats
