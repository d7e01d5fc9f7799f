#include "formats/gguf_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "formats/gguf_tensors.h"
#include "formats/gguf_tokenizer.h"

namespace mesh::formats {
namespace {

using Json = nlohmann::json;
using namespace gguf_architecture;

constexpr std::string_view kEmbedding = "token_embd.weight";
constexpr std::string_view kFrequencies = "rope_freqs.weight";

struct Architecture {
  std::string_view name, model_type, hub_class;
  unsigned bit = 0;
  bool is_moe = false;
  bool weights_normalised = false;  // of the chosen experts, where the file does not say
};

constexpr Architecture kArchitectures[] = {
    {"llama", "llama", "LlamaForCausalLM", kLlama},
    {"qwen2", "qwen2", "Qwen2ForCausalLM", kQwen2},
    {"qwen3", "qwen3", "Qwen3ForCausalLM", kQwen3},
    {"qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM", kQwen2Moe, true, false},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", kQwen3Moe, true, true},
};

Error unsupported(std::string message) {
  return Error(Code::kUnsupported, std::move(message));
}

Result<const Architecture*> find_architecture(const GgufMetadata& metadata) {
  MESH_ASSIGN_OR_RETURN(const std::string name, metadata.text("general.architecture"));
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.name);
  }
  return unsupported(
      fmt::format("architecture \"{}\" is not supported; supported are {}", name, known));
}

// Writes config.json, key by key, out of "ARCHITECTURE.…" keys and the tensor table.
class ConfigWriter {
 public:
  ConfigWriter(const GgufModel& gguf, const Architecture& architecture)
      : metadata_(gguf.metadata), tensors_(*gguf.tensors), architecture_(architecture) {}

  Result<void> write() {
    config_["model_type"] = architecture_.model_type;
    config_["architectures"] = Json::array({architecture_.hub_class});
    config_["hidden_act"] = "silu";
    MESH_RETURN_IF_ERROR(refuse_extras());
    MESH_RETURN_IF_ERROR(sizes());
    MESH_RETURN_IF_ERROR(vocabulary());
    MESH_RETURN_IF_ERROR(rope());
    if (architecture_.is_moe) MESH_RETURN_IF_ERROR(experts());
    return {};
  }

  Json& config() { return config_; }
  std::uint64_t head_dim() const { return head_dim_; }

 private:
  std::string key(std::string_view name) const {
    return fmt::format("{}.{}", architecture_.name, name);
  }
  Result<std::uint64_t> whole(std::string_view name) const { return metadata_.whole(key(name)); }
  Result<std::uint64_t> whole(std::string_view name, std::uint64_t fallback) const {
    return metadata_.has(key(name)) ? whole(name) : fallback;
  }
  // Finite: JSON has no other numbers, they would silently become null.
  Result<double> number(std::string_view name) const {
    MESH_ASSIGN_OR_RETURN(const double value, metadata_.number(key(name)));
    if (!std::isfinite(value))
      return Error(Code::kCorrupt, fmt::format("{} is not a finite number", key(name)));
    return value;
  }
  Result<double> number(std::string_view name, double fallback) const {
    return metadata_.has(key(name)) ? number(name) : fallback;
  }
  bool has_tensor(std::string_view name) const { return tensors_.find(name) != nullptr; }

  // What would change the model's function and is not in the hub's files of these families.
  Result<void> refuse_extras() const {
    struct Extra {
      std::string_view name;
      double harmless[2];
    };
    constexpr Extra kExtras[] = {{"expert_group_count", {0, 1}},
                                 {"expert_weights_scale", {0, 1}},
                                 {"expert_gating_func", {0, 1}},  // 1: softmax
                                 {"nextn_predict_layers", {0, 0}},
                                 {"rope.scaling.attn_factor", {0, 1}},
                                 {"rope.scaling.yarn_log_multiplier", {0, 0}},
                                 {"rope.scaling.yarn_attn_factor", {0, 1}},
                                 {"attention.sliding_window", {0, 0}},
                                 {"attention.clamp_kqv", {0, 0}},
                                 {"logit_scale", {0, 1}}};
    for (const Extra& extra : kExtras) {
      MESH_ASSIGN_OR_RETURN(const double value, number(extra.name, extra.harmless[0]));
      if (value != extra.harmless[0] && value != extra.harmless[1])
        return unsupported(fmt::format("{} is {}, which is not supported", key(extra.name), value));
    }
    if (!architecture_.is_moe) {
      MESH_ASSIGN_OR_RETURN(const std::uint64_t count, whole("expert_count", 0));
      if (count != 0)
        return unsupported(fmt::format("{} is {}: architecture {} with experts is not supported",
                                       key("expert_count"), count, architecture_.name));
    }
    return {};
  }

  Result<void> sizes() {
    MESH_ASSIGN_OR_RETURN(layers_, whole("block_count"));
    if (layers_ == 0 || layers_ > limits::kLayers)
      return Error(Code::kCorrupt, fmt::format("{} is {}, it must be in 1..{}", key("block_count"),
                                               layers_, limits::kLayers));
    MESH_ASSIGN_OR_RETURN(const std::uint64_t hidden, whole("embedding_length"));
    MESH_ASSIGN_OR_RETURN(const std::uint64_t heads, whole("attention.head_count"));
    MESH_ASSIGN_OR_RETURN(config_["num_key_value_heads"], whole("attention.head_count_kv", heads));
    MESH_ASSIGN_OR_RETURN(config_["intermediate_size"], whole("feed_forward_length"));
    MESH_ASSIGN_OR_RETURN(config_["max_position_embeddings"], whole("context_length"));
    MESH_ASSIGN_OR_RETURN(config_["rms_norm_eps"], number("attention.layer_norm_rms_epsilon"));
    if (heads == 0 || heads > limits::kHeads)
      return Error(Code::kCorrupt, fmt::format("{} is {}, it must be in 1..{}",
                                               key("attention.head_count"), heads, limits::kHeads));
    MESH_ASSIGN_OR_RETURN(head_dim_, whole("attention.key_length", hidden / heads));
    MESH_ASSIGN_OR_RETURN(const std::uint64_t values,
                          whole("attention.value_length", hidden / heads));
    if (head_dim_ != values)
      return unsupported(fmt::format("heads with keys of {} and values of {} are not supported",
                                     head_dim_, values));
    if (head_dim_ < 2 || head_dim_ > limits::kHeadDim || head_dim_ % 2 != 0)
      return Error(Code::kCorrupt, fmt::format("heads of {}: it must be even and in 2..{}",
                                               head_dim_, limits::kHeadDim));
    MESH_ASSIGN_OR_RETURN(const std::uint64_t rotated, whole("rope.dimension_count", head_dim_));
    if (rotated != head_dim_)
      return unsupported(fmt::format("{} is {} of heads of {}; partial rotation is not supported",
                                     key("rope.dimension_count"), rotated, head_dim_));
    config_["num_hidden_layers"] = layers_;
    config_["hidden_size"] = hidden;
    config_["num_attention_heads"] = heads;
    config_["head_dim"] = head_dim_;
    config_["attention_bias"] = architecture_.bit != kQwen2 && architecture_.bit != kQwen2Moe &&
                                has_tensor("blk.0.attn_q.bias");
    return {};
  }

  Result<void> vocabulary() {
    const tensor::TensorInfo* embedding = tensors_.find(kEmbedding);
    if (embedding == nullptr)
      return Error(Code::kNotFound, fmt::format("there is no tensor {}", kEmbedding));
    if (embedding->shape.size() != 2)
      return Error(Code::kCorrupt, fmt::format("tensor {} is {}, it must be a matrix", kEmbedding,
                                               tensor::shape_text(embedding->shape)));
    config_["vocab_size"] = embedding->shape.front();
    config_["tie_word_embeddings"] = !has_tensor("output.weight");
    return {};
  }

  Result<void> rope() {
    MESH_ASSIGN_OR_RETURN(config_["rope_theta"], number("rope.freq_base", 10000.0));
    MESH_ASSIGN_OR_RETURN(Json scaling, rope_scaling());
    if (architecture_.bit == kLlama && has_tensor(kFrequencies)) {
      if (!scaling.is_null())
        return unsupported(fmt::format("{} together with {} is not supported", kFrequencies,
                                       key("rope.scaling.type")));
      MESH_ASSIGN_OR_RETURN(const std::vector<float> factors, frequency_divisors());
      scaling = {{"rope_type", "factors"}, {"factors", factors}};
    }
    if (!scaling.is_null()) config_["rope_scaling"] = std::move(scaling);
    return {};
  }

  // Null without scaling. A factor without a type means linear, as old files have it.
  Result<Json> rope_scaling() const {
    std::string type = "linear";
    if (metadata_.has(key("rope.scaling.type"))) {
      MESH_ASSIGN_OR_RETURN(type, metadata_.text(key("rope.scaling.type")));
    }
    MESH_ASSIGN_OR_RETURN(const double old_factor, number("rope.scale_linear", 1.0));
    MESH_ASSIGN_OR_RETURN(const double factor, number("rope.scaling.factor", old_factor));
    if (type == "none") return Json();
    if (type == "linear")
      // 0 is how converters spell "not given".
      return factor == 1.0 || factor == 0.0 ? Json()
                                            : Json{{"rope_type", "linear"}, {"factor", factor}};
    if (type != "yarn")
      return unsupported(
          fmt::format("{} \"{}\" is not supported; supported are none, linear and yarn",
                      key("rope.scaling.type"), type));
    Json yarn = {{"rope_type", "yarn"}, {"factor", factor}};
    if (metadata_.has(key("rope.scaling.original_context_length"))) {
      MESH_ASSIGN_OR_RETURN(yarn["original_max_position_embeddings"],
                            whole("rope.scaling.original_context_length"));
    }
    MESH_ASSIGN_OR_RETURN(yarn["beta_fast"], number("rope.scaling.yarn_beta_fast", 32.0));
    MESH_ASSIGN_OR_RETURN(yarn["beta_slow"], number("rope.scaling.yarn_beta_slow", 1.0));
    return yarn;
  }

  // What each frequency is divided by; they stand for llama3's scaling.
  Result<std::vector<float>> frequency_divisors() const {
    const tensor::TensorInfo& info = *tensors_.find(kFrequencies);
    const auto count = static_cast<std::int64_t>(head_dim_ / 2);
    if (info.dtype != tensor::DType::kF32 || info.shape != tensor::Shape{count})
      return Error(Code::kCorrupt, fmt::format("tensor {} is {} of {}, it must be [{}] of F32",
                                               kFrequencies, tensor::shape_text(info.shape),
                                               tensor::dtype_name(info.dtype), count));
    std::vector<float> factors(static_cast<std::size_t>(count));
    MESH_RETURN_IF_ERROR(
        tensors_.read_part(info.name, 0, std::as_writable_bytes(std::span<float>(factors))));
    for (const float factor : factors)
      if (!std::isfinite(factor) || factor <= 0)
        return Error(Code::kCorrupt,
                     fmt::format("tensor {} holds {}: divisors are above 0", kFrequencies, factor));
    return factors;
  }

  // Extent `axis` of the first layer's tensor of that name; 0 if there is none.
  std::uint64_t extent(std::string_view rest, std::size_t rank, std::size_t axis) const {
    for (std::uint64_t layer = 0; layer < layers_; ++layer)
      if (const auto* info = tensors_.find(fmt::format("blk.{}.{}", layer, rest)))
        return info->shape.size() == rank ? static_cast<std::uint64_t>(info->shape[axis]) : 0;
    return 0;
  }

  Result<void> experts() {
    MESH_ASSIGN_OR_RETURN(config_["num_experts"], whole("expert_count"));
    MESH_ASSIGN_OR_RETURN(config_["num_experts_per_tok"], whole("expert_used_count"));
    MESH_ASSIGN_OR_RETURN(
        config_["moe_intermediate_size"],
        whole("expert_feed_forward_length", extent("ffn_gate_exps.weight", 3, 1)));
    bool normalised = architecture_.weights_normalised;
    if (metadata_.has(key("expert_weights_norm"))) {
      MESH_ASSIGN_OR_RETURN(normalised, metadata_.flag(key("expert_weights_norm")));
    }
    config_["norm_topk_prob"] = normalised;
    if (architecture_.bit == kQwen2Moe) {
      MESH_ASSIGN_OR_RETURN(
          config_["shared_expert_intermediate_size"],
          whole("expert_shared_feed_forward_length", extent("ffn_gate_shexp.weight", 2, 0)));
    }
    // Which layers have experts is read off the tensors.
    Json dense = Json::array();
    for (std::uint64_t layer = 0; layer < layers_; ++layer)
      if (!has_tensor(fmt::format("blk.{}.ffn_gate_inp.weight", layer))) dense.push_back(layer);
    config_["decoder_sparse_step"] = 1;
    config_["mlp_only_layers"] = std::move(dense);
    return {};
  }

  const GgufMetadata& metadata_;
  const TensorSource& tensors_;
  const Architecture& architecture_;
  Json config_ = Json::object();
  std::uint64_t layers_ = 0;
  std::uint64_t head_dim_ = 0;
};

Result<ModelFiles> translate(GgufModel& gguf) {
  MESH_ASSIGN_OR_RETURN(const Architecture* architecture, find_architecture(gguf.metadata));
  ConfigWriter writer(gguf, *architecture);
  MESH_RETURN_IF_ERROR(writer.write());
  MESH_ASSIGN_OR_RETURN(GgufTokenizer tokenizer, gguf_tokenizer(gguf.metadata));
  ModelFiles files;
  if (!tokenizer.stop_ids.empty()) writer.config()["eos_token_id"] = tokenizer.stop_ids;
  files.config_json = writer.config().dump();
  files.tokenizer_json = std::move(tokenizer.tokenizer_json);
  files.tokenizer_config_json = std::move(tokenizer.tokenizer_config_json);
  files.chat_template = std::move(tokenizer.chat_template);
  MESH_ASSIGN_OR_RETURN(files.tensors, gguf_hub_tensors(std::move(gguf.tensors), architecture->bit,
                                                        writer.head_dim()));
  files.name = std::move(gguf.name);
  files.origin = std::move(gguf.origin);
  return files;
}

}  // namespace

Result<ModelFiles> gguf_model_files(GgufModel gguf) {
  const std::string origin = gguf.origin;
  auto files = translate(gguf);
  if (!files.ok()) return files.error().with_context(origin);
  return files;
}

}  // namespace mesh::formats
