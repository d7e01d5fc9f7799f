// Names and shapes, as save_pretrained() of transformers publishes them.
#include <fmt/format.h>

#include <utility>

#include "model/weights.h"

namespace mesh::model {
namespace {

void append(std::vector<TensorRole>& list, const LinearRole& role) {
  list.insert(list.end(), role.weights.begin(), role.weights.end());
  list.insert(list.end(), role.biases.begin(), role.biases.end());
}

Result<void> check_role(const TensorRole& role, const formats::TensorSource& source) {
  const tensor::TensorInfo* info = source.find(role.name);
  if (info == nullptr)
    return Error(Code::kNotFound, fmt::format("the checkpoint has no tensor {} (expected {})",
                                              role.name, tensor::shape_text(role.shape)));
  if (info->shape != role.shape)
    return Error(Code::kCorrupt,
                 fmt::format("tensor {} is {}, the configuration expects {}", role.name,
                             tensor::shape_text(info->shape), tensor::shape_text(role.shape)));
  const bool is_matrix = role.shape.size() > 1;
  if (!tensor::is_float_weight(info->dtype) && !(is_matrix && tensor::is_quantized(info->dtype)))
    return Error(Code::kUnsupported,
                 fmt::format("tensor {} is {}; F32, BF16 and F16 are supported{}", role.name,
                             tensor::dtype_name(info->dtype),
                             is_matrix ? ", and the quantised types of GGUF" : ""));
  return {};
}

TensorRole embedding_role(const ModelSpec& spec) {
  return {kEmbeddingTensor, {spec.vocabulary, spec.hidden}};
}
TensorRole final_norm_role(const ModelSpec& spec) {
  return {kFinalNormTensor, {spec.hidden}};
}
TensorRole head_role(const ModelSpec& spec) {
  return {kHeadTensor, {spec.vocabulary, spec.hidden}};
}

std::uint64_t bytes_of(const TensorRole& role, const formats::TensorSource& source) {
  const tensor::TensorInfo* info = source.find(role.name);
  return info == nullptr ? 0 : info->bytes();
}

// The layout of a layer's experts: the published one unless the source has another one's names.
ExpertLayout expert_layout(const formats::TensorSource* source, const std::string& experts) {
  if (source != nullptr && source->find(experts + "gate_up_proj") != nullptr)
    return ExpertLayout::kFused;
  if (source != nullptr && source->find(experts + "gate_proj.weight") != nullptr)
    return ExpertLayout::kStacked;
  return ExpertLayout::kSeparate;
}

std::vector<TensorRole> expert_roles(const ops::ExpertsShape& shape, ExpertLayout layout,
                                     const std::string& prefix) {
  const std::int64_t count = shape.experts, hidden = shape.hidden, inner = shape.intermediate;
  if (layout == ExpertLayout::kFused)
    return {{prefix + "gate_up_proj", {count, 2 * inner, hidden}},
            {prefix + "down_proj", {count, hidden, inner}}};
  if (layout == ExpertLayout::kStacked)
    return {{prefix + "gate_proj.weight", {count, inner, hidden}},
            {prefix + "up_proj.weight", {count, inner, hidden}},
            {prefix + "down_proj.weight", {count, hidden, inner}}};
  std::vector<TensorRole> roles;
  for (std::int64_t e = 0; e < count; ++e) {
    const std::string expert = fmt::format("{}{}.", prefix, e);
    roles.push_back({expert + "gate_proj.weight", {inner, hidden}});
    roles.push_back({expert + "up_proj.weight", {inner, hidden}});
    roles.push_back({expert + "down_proj.weight", {hidden, inner}});
  }
  return roles;
}

// Router, experts and shared expert of a layer whose tensors start with `prefix`.
void add_moe_roles(const ModelSpec& spec, const std::string& prefix,
                   const formats::TensorSource* source, LayerRoles& roles) {
  const std::int64_t hidden = spec.hidden, shared = spec.moe.shared_intermediate;
  MoeRoles& moe = roles.moe.emplace();
  moe.shape = {spec.moe.experts, hidden, spec.moe.intermediate};
  moe.router = {prefix + "gate.weight", {spec.moe.experts, hidden}};
  moe.layout = expert_layout(source, prefix + "experts.");
  moe.experts = expert_roles(moe.shape, moe.layout, prefix + "experts.");
  if (shared == 0) return;
  roles.gate_up.weights = {{prefix + "shared_expert.gate_proj.weight", {shared, hidden}},
                           {prefix + "shared_expert.up_proj.weight", {shared, hidden}}};
  roles.down.weights = {{prefix + "shared_expert.down_proj.weight", {hidden, shared}}};
  moe.shared_gate = {prefix + "shared_expert_gate.weight", {1, hidden}};
  // GGUF stores this row as a vector.
  const tensor::TensorInfo* gate =
      source == nullptr ? nullptr : source->find(moe.shared_gate->name);
  if (gate != nullptr && gate->shape == tensor::Shape{hidden}) moe.shared_gate->shape = {hidden};
}

}  // namespace

std::vector<TensorRole> LayerRoles::all() const {
  std::vector<TensorRole> list{norm1};
  append(list, qkv);
  if (q_norm) list.push_back(*q_norm);
  if (k_norm) list.push_back(*k_norm);
  append(list, o);
  list.push_back(norm2);
  if (moe) {
    list.push_back(moe->router);
    list.insert(list.end(), moe->experts.begin(), moe->experts.end());
  }
  append(list, gate_up);
  append(list, down);
  if (moe && moe->shared_gate) list.push_back(*moe->shared_gate);
  return list;
}

std::vector<TensorRole> TensorTable::all() const {
  std::vector<TensorRole> list;
  if (embedding) list.push_back(*embedding);
  for (const LayerRoles& layer : layers)
    for (TensorRole& role : layer.all()) list.push_back(std::move(role));
  if (final_norm) list.push_back(*final_norm);
  if (head) list.push_back(*head);
  return list;
}

LayerRoles layer_roles(const ModelSpec& spec, std::uint32_t layer,
                       const formats::TensorSource* source) {
  const std::int64_t hidden = spec.hidden;
  const std::int64_t intermediate = spec.intermediate;
  const std::int64_t head_dim = spec.head_dim;
  const std::int64_t q = spec.heads * head_dim;
  const std::int64_t kv = spec.kv_heads * head_dim;
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const auto role = [&](const char* name, tensor::Shape shape) {
    return TensorRole{prefix + name, std::move(shape)};
  };
  LayerRoles roles;
  roles.norm1 = role("input_layernorm.weight", {hidden});
  roles.qkv.weights = {role("self_attn.q_proj.weight", {q, hidden}),
                       role("self_attn.k_proj.weight", {kv, hidden}),
                       role("self_attn.v_proj.weight", {kv, hidden})};
  if (spec.qkv_bias)
    roles.qkv.biases = {role("self_attn.q_proj.bias", {q}), role("self_attn.k_proj.bias", {kv}),
                        role("self_attn.v_proj.bias", {kv})};
  if (spec.qk_norm) {
    roles.q_norm = role("self_attn.q_norm.weight", {head_dim});
    roles.k_norm = role("self_attn.k_norm.weight", {head_dim});
  }
  roles.o.weights = {role("self_attn.o_proj.weight", {hidden, q})};
  if (spec.o_bias) roles.o.biases = {role("self_attn.o_proj.bias", {hidden})};
  roles.norm2 = role("post_attention_layernorm.weight", {hidden});
  if (spec.is_moe(layer)) {
    add_moe_roles(spec, prefix + "mlp.", source, roles);
    return roles;
  }
  roles.gate_up.weights = {role("mlp.gate_proj.weight", {intermediate, hidden}),
                           role("mlp.up_proj.weight", {intermediate, hidden})};
  roles.down.weights = {role("mlp.down_proj.weight", {hidden, intermediate})};
  return roles;
}

TensorTable model_roles(const ModelSpec& spec, LayerRange range,
                        const formats::TensorSource* source) {
  const bool is_first = range.begin == 0;
  const bool is_last = range.end == spec.layers;
  TensorTable table;
  if (is_first || (is_last && spec.tied)) table.embedding = embedding_role(spec);
  for (std::uint32_t layer = range.begin; layer < range.end; ++layer)
    table.layers.push_back(layer_roles(spec, layer, source));
  if (is_last) table.final_norm = final_norm_role(spec);
  if (is_last && !spec.tied) table.head = head_role(spec);
  return table;
}

Result<TensorTable> tensor_table(const ModelSpec& spec, const formats::TensorSource& source,
                                 LayerRange range) {
  if (range.empty() || range.end > spec.layers)
    return Error(Code::kInvalidArgument, fmt::format("layers {} of a model with {} layers",
                                                     range.to_string(), spec.layers));
  TensorTable table = model_roles(spec, range, &source);
  for (const TensorRole& role : table.all()) MESH_RETURN_IF_ERROR(check_role(role, source));
  return table;
}

std::uint64_t layer_bytes(const ModelSpec& spec, const formats::TensorSource& source,
                          std::uint32_t layer) {
  std::uint64_t bytes = 0;
  for (const TensorRole& role : layer_roles(spec, layer, &source).all())
    bytes += bytes_of(role, source);
  return bytes;
}

std::uint64_t embedding_bytes(const ModelSpec& spec, const formats::TensorSource& source) {
  return bytes_of(embedding_role(spec), source);
}

std::uint64_t head_bytes(const ModelSpec& spec, const formats::TensorSource& source) {
  return bytes_of(final_norm_role(spec), source) +
         bytes_of(spec.tied ? embedding_role(spec) : head_role(spec), source);
}

std::uint64_t stage_bytes(const ModelSpec& spec, const formats::TensorSource& source,
                          LayerRange range) {
  std::uint64_t bytes = 0;
  for (const TensorRole& role : model_roles(spec, range, &source).all())
    if (const tensor::TensorInfo* info = source.find(role.name)) bytes += info->bytes();
  return bytes;
}

}  // namespace mesh::model
