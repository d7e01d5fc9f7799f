#include "model/synthetic_shapes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace mesh::model {
namespace {

// Source: the config.json of each publisher, with a context that needs no rope scaling. moe-8x is
// nobody's: eight experts of a size that fits any machine.
struct Shape {
  std::string_view name, family;
  std::uint32_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary;
  bool tied;
  double rope_theta;
  std::uint32_t experts = 0, top_k = 0;  // intermediate is then that of one expert
};
constexpr Shape kShapes[] = {
    {"qwen3-0.6b", "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, true, 1e6},
    {"llama-3.2-1b", "llama", 16, 2048, 8192, 32, 8, 64, 128256, true, 5e5},
    {"llama-3.2-3b", "llama", 28, 3072, 8192, 24, 8, 128, 128256, true, 5e5},
    {"qwen2.5-0.5b", "qwen2", 24, 896, 4864, 14, 2, 64, 151936, true, 1e6},
    {"moe-8x", "qwen3_moe", 16, 1024, 1536, 16, 8, 64, 32768, true, 1e6, 8, 2},
    {"qwen3-30b-a3b", "qwen3_moe", 48, 2048, 768, 32, 4, 128, 151936, false, 1e6, 128, 8},
    {"qwen3-8b", "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, false, 1e6},
};

Result<void> take_weights(std::string_view weights, RandomModelOptions& options) {
  std::string name(weights);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  options.mixed = name == "Q4_K_M" || name == "Q5_K_M";
  if (options.mixed) name.resize(name.size() - 2);
  const auto type = tensor::dtype_from_name(name);
  const bool known = type && (*type == tensor::DType::kF32 || *type == tensor::DType::kBF16 ||
                              tensor::is_quantized(*type));
  if (!known)
    return Error(
        Code::kInvalidArgument,
        fmt::format("there are no weights of type \"{}\"; there are f32, bf16, q4_0, q4_1, "
                    "q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, "
                    "mxfp4, q4_k_m, q5_k_m",
                    weights));
  options.dtype = *type;
  return {};
}

}  // namespace

std::string synthetic_names() {
  std::string names;
  for (const Shape& shape : kShapes) names += (names.empty() ? "" : ", ") + std::string(shape.name);
  return names;
}

Result<RandomModelOptions> synthetic_shape(std::string_view name, std::string_view weights) {
  const auto* shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                   [&](const Shape& s) { return s.name == name; });
  if (shape == std::end(kShapes))
    return Error(Code::kInvalidArgument,
                 fmt::format("there is no shape \"{}\"; there are {}", name, synthetic_names()));
  RandomModelOptions options;
  options.family = shape->family;
  options.layers = shape->layers;
  options.hidden = shape->hidden;
  options.intermediate = shape->intermediate;
  options.heads = shape->heads;
  options.kv_heads = shape->kv_heads;
  options.head_dim = shape->head_dim;
  options.vocabulary = shape->vocabulary;
  options.context = 8192;
  options.rope_theta = shape->rope_theta;
  options.tied = shape->tied;
  if (shape->experts > 0) {
    options.experts = shape->experts;
    options.top_k = shape->top_k;
    options.expert_intermediate = shape->intermediate;
  }
  MESH_RETURN_IF_ERROR(take_weights(weights, options));
  return options;
}

}  // namespace mesh::model
