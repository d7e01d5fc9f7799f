#include "model/decoder.h"

#include <cmath>

#include "base/check.h"

namespace mesh::model {

ops::Tensor Decoder::feed_forward(ops::Step& step, const LayerWeights& w,
                                  const ops::Tensor& x) const {
  const auto mlp = [&] { return step.linear(step.swiglu(step.linear(x, *w.gate_up)), *w.down); };
  if (w.experts == nullptr) return mlp();
  const ops::RoutingSpec routing{.top_k = static_cast<int>(spec_.moe.top_k),
                                 .normalise = spec_.moe.normalise};
  ops::Tensor y = step.experts(x, step.linear(x, *w.router), *w.experts, routing);
  if (w.shared_gate != nullptr) {
    const ops::Tensor shared = mlp();
    step.add_gated(y, shared, step.linear(x, *w.shared_gate));
  }
  return y;
}

ops::Tensor Decoder::run_layers(ops::Step& step, const StageWeights& weights, LayerRange layers,
                                const Observer& observer) const {
  MESH_CHECK(layers.begin >= weights.range.begin && layers.end <= weights.range.end,
             "layers {} of a stage of {}", layers.to_string(), weights.range.to_string());
  ops::AttentionSpec attention;
  attention.heads = static_cast<int>(spec_.heads);
  attention.kv_heads = static_cast<int>(spec_.kv_heads);
  attention.head_dim = static_cast<int>(spec_.head_dim);
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec_.head_dim)));
  attention.rope = &rope_;
  attention.eps = spec_.norm_eps;

  ops::Tensor h = layers.begin == 0 ? step.embed(*weights.embedding) : step.residual_in();
  if (observer) observer(layers.begin, step, h);
  for (std::uint32_t i = layers.begin; i < layers.end; ++i) {
    const LayerWeights& w = *weights.layers[i - weights.range.begin];
    attention.layer = static_cast<int>(i - weights.range.begin);
    attention.q_norm = w.q_norm.get();
    attention.k_norm = w.k_norm.get();
    const ops::Tensor qkv = step.linear(step.rms_norm(h, *w.norm1, spec_.norm_eps), *w.qkv);
    step.add_residual(h, step.linear(step.attention(attention, qkv), *w.o));
    step.add_residual(h, feed_forward(step, w, step.rms_norm(h, *w.norm2, spec_.norm_eps)));
    if (observer) observer(i + 1, step, h);
  }
  return h;
}

ops::Tensor Decoder::logits(ops::Step& step, const StageWeights& weights,
                            const ops::Tensor& residual, std::span<const std::int32_t> rows) const {
  MESH_CHECK(weights.final_norm != nullptr, "logits of stage {}, which is not the last",
             weights.range.to_string());
  const ops::Tensor normed =
      step.rms_norm(step.take_rows(residual, rows), *weights.final_norm, spec_.norm_eps);
  return step.linear(normed, spec_.tied ? *weights.embedding : *weights.head);
}

}  // namespace mesh::model
