#pragma once
// The one decoder that runs every family on every backend.

#include <cstdint>
#include <functional>
#include <span>

#include "base/ids.h"
#include "model/spec.h"
#include "model/weights.h"
#include "ops/ops.h"

namespace mesh::model {

// Immutable; holds no weights and no state of a step, so that all stages of a process may share
// one. One thread per Step. h ← E[token]; per layer h ← h + Attn(norm(h)), h ← h + FFN(norm(h));
// logits = norm(h)·Wᵀ. FFN is an MLP, or experts and a gated shared one. Source: Vaswani et al.
// 2017; Zhang and Sennrich 2019 (RMSNorm); Shazeer 2020 (SwiGLU); Shazeer et al. 2017 (experts).
class Decoder {
 public:
  // Sees the residual at each boundary: `layer` layers of the model have run, 0 is the embedding.
  using Observer =
      std::function<void(std::uint32_t layer, ops::Step& step, const ops::Tensor& residual)>;

  // `rope` (model/rope.h) outlives the decoder.
  Decoder(const ModelSpec& spec, const ops::RopeTable& rope) : spec_(spec), rope_(rope) {}

  // The residual [T, hidden] behind `layers`, a part of weights.range. Starts from the batch's
  // tokens if the part begins with layer 0, else from its residual_in. The pool of the step has the
  // layers of weights.range.
  ops::Tensor run_layers(ops::Step& step, const StageWeights& weights, LayerRange layers,
                         const Observer& observer = {}) const;

  // f32 [rows, vocabulary] of the given rows of the last layer's residual, in that order. Only on
  // the last stage.
  ops::Tensor logits(ops::Step& step, const StageWeights& weights, const ops::Tensor& residual,
                     std::span<const std::int32_t> rows) const;

 private:
  // FFN(x), f32 [T, hidden].
  ops::Tensor feed_forward(ops::Step& step, const LayerWeights& w, const ops::Tensor& x) const;

  const ModelSpec spec_;
  const ops::RopeTable& rope_;
};

}  // namespace mesh::model
