#pragma once
// Which tensors a range of layers needs, what they weigh, and how they become weights of a backend.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "formats/tensor_source.h"
#include "model/spec.h"
#include "ops/ops.h"

namespace mesh::model {

inline constexpr const char* kEmbeddingTensor = "model.embed_tokens.weight";
inline constexpr const char* kFinalNormTensor = "model.norm.weight";
inline constexpr const char* kHeadTensor = "lm_head.weight";

// --- the table of roles
// A tensor by its published name and the shape that the configuration demands.
struct TensorRole {
  std::string name;
  tensor::Shape shape;
};

// Matrices stacked along their outputs, each with its bias or none (biases is empty or as long as
// weights).
struct LinearRole {
  std::vector<TensorRole> weights;
  std::vector<TensorRole> biases;
};

// How a checkpoint stores the experts of a layer; all three hold the same matrices.
enum class ExpertLayout {
  kSeparate,  // published: gate, up and down of each expert in a tensor of its own
  kStacked,   // one tensor [experts, out, in] for each of gate, up and down
  kFused,     // gate_up [experts, 2·intermediate, hidden], gate rows first, and down
};

struct MoeRoles {
  TensorRole router;  // [experts, hidden]
  ops::ExpertsShape shape;
  ExpertLayout layout = ExpertLayout::kSeparate;
  // By layout: gate, up, down of expert 0, then of expert 1, …; gate, up, down; gate_up, down.
  std::vector<TensorRole> experts;
  std::optional<TensorRole> shared_gate;  // [1, hidden]
};

struct LayerRoles {
  TensorRole norm1;
  LinearRole qkv;
  std::optional<TensorRole> q_norm, k_norm;
  LinearRole o;
  TensorRole norm2;
  std::optional<MoeRoles> moe;
  // Of the MLP, or in a layer with experts of the shared expert, and empty without one.
  LinearRole gate_up;
  LinearRole down;
  std::vector<TensorRole> all() const;  // in the order in which they are loaded
};

// What a stage needs besides its layers depends on where it lies.
struct TensorTable {
  std::optional<TensorRole> embedding;  // on the first stage, and on the last if it is the head too
  std::vector<LayerRoles> layers;
  std::optional<TensorRole> final_norm;  // on the last stage
  std::optional<TensorRole> head;        // on the last stage, null when tied
  std::vector<TensorRole> all() const;
};

// `source` decides the layout of experts, by which names it has; null: as published.
LayerRoles layer_roles(const ModelSpec& spec, std::uint32_t layer,
                       const formats::TensorSource* source = nullptr);
// The roles of `range`, a non-empty part of [0, spec.layers).
TensorTable model_roles(const ModelSpec& spec, LayerRange range,
                        const formats::TensorSource* source = nullptr);

// model_roles(), each checked against the source: present, f32, bf16 or f16, of the right shape.
// Errors: invalid_argument (range), not_found and corrupt, naming the tensor, unsupported (element
// type).
Result<TensorTable> tensor_table(const ModelSpec& spec, const formats::TensorSource& source,
                                 LayerRange range);

// --- sizes for the planner: source bytes, from the table alone. A tensor that is missing counts
// nothing.
std::uint64_t layer_bytes(const ModelSpec& spec, const formats::TensorSource& source,
                          std::uint32_t layer);
std::uint64_t embedding_bytes(const ModelSpec& spec, const formats::TensorSource& source);
// Of the head and the final norm on the last stage; a tied head counts as the embedding that this
// stage must hold.
std::uint64_t head_bytes(const ModelSpec& spec, const formats::TensorSource& source);
// Of everything that a stage of `range` holds; a tensor that serves as embedding and head counts
// once.
std::uint64_t stage_bytes(const ModelSpec& spec, const formats::TensorSource& source,
                          LayerRange range);

// --- loaded
// Weights of one layer, immutable. Stages share them across reloads.
struct LayerWeights {
  std::unique_ptr<ops::Vec> norm1;
  std::unique_ptr<ops::Linear> qkv;
  std::unique_ptr<ops::Vec> q_norm, k_norm;  // null where the family has none
  std::unique_ptr<ops::Linear> o;
  std::unique_ptr<ops::Vec> norm2;
  std::unique_ptr<ops::Linear> router;  // f32 whatever the checkpoint has; null in a dense layer
  std::unique_ptr<ops::Experts> experts;
  std::unique_ptr<ops::Linear> gate_up;  // of the MLP or the shared expert; null where none is
  std::unique_ptr<ops::Linear> down;
  std::unique_ptr<ops::Linear> shared_gate;  // f32; null without a shared expert
  std::uint64_t source_bytes = 0;            // read from the checkpoint
  // XXH3 of those bytes in the order of LayerRoles::all(), but expert by expert (gate, up, down)
  // in every layout: one layer has one hash however its experts are stored.
  std::uint64_t source_hash = 0;
  std::uint64_t device_bytes() const;
};

// Weights of one stage, made by one backend, which outlives them.
struct StageWeights {
  LayerRange range;
  std::shared_ptr<const ops::Linear> embedding;
  std::vector<std::shared_ptr<const LayerWeights>> layers;  // layer range.begin + i
  std::shared_ptr<const ops::Vec> final_norm;
  std::shared_ptr<const ops::Linear> head;  // null when tied: use embedding
  std::uint64_t source_bytes = 0;           // of all the tensors held
  std::uint64_t device_bytes() const;
  std::vector<std::uint64_t> layer_hashes() const;  // as layers
};

struct LoadOptions {
  // Weights that the same backend loaded from the same model; what the new range needs of them is
  // shared, not read.
  const StageWeights* reuse = nullptr;
  // Called after each expert, layer and end: source bytes read so far and to be read in all.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
  // Asked before each expert, layer and end; true stops the load with `cancelled`.
  std::function<bool()> cancelled;
};

// Reads the tensors of the range and nothing else, one matrix or expert at a time, and hands them
// to the backend. Errors: those of tensor_table(), of reading, of the backend (with the layer in
// front), cancelled.
Result<StageWeights> load_stage(const ModelSpec& spec, const formats::TensorSource& source,
                                ops::Backend& backend, LayerRange range,
                                const LoadOptions& options = {});

}  // namespace mesh::model
