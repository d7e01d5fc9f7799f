#include "model/random_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/random.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "model/random_blocks.h"
#include "model/weights.h"

namespace mesh::model {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ull;

struct Range {
  double low = 0;
  double high = 0;
};

Range weight_range(const tensor::TensorInfo& info) {
  const auto of_deviation = [](double deviation) {
    return Range{-deviation * std::sqrt(3.0), deviation * std::sqrt(3.0)};
  };
  const std::string_view name = info.name;
  if (name.ends_with("norm.weight")) return {0.5, 1.5};
  if (name.ends_with("bias")) return of_deviation(0.3);
  // Routers with wide gaps between experts.
  const double gain = name.ends_with("mlp.gate.weight") ? 4.0 : 1.0;
  return of_deviation(gain / std::sqrt(static_cast<double>(info.shape.back())));
}

// Elements of one tensor; element i depends on (seed, name, i) alone.
class Elements {
 public:
  Elements(std::uint64_t seed, const tensor::TensorInfo& info)
      : key_(splitmix64(fnv1a64(info.name) ^ splitmix64(seed))), range_(weight_range(info)) {}

  std::uint64_t key() const { return key_; }
  // Of values spread evenly over the range.
  float deviation() const {
    return static_cast<float>((range_.high - range_.low) / std::sqrt(12.0));
  }

  std::uint16_t bf16(std::uint64_t index) const {
    const double unit = static_cast<double>(splitmix64(key_ + index * kGolden) >> 11) * 0x1p-53;
    return tensor::f32_to_bf16(static_cast<float>(range_.low + (range_.high - range_.low) * unit));
  }

 private:
  std::uint64_t key_;
  Range range_;
};

class RandomSource final : public formats::TensorSource {
 public:
  RandomSource(std::uint64_t seed, std::vector<tensor::TensorInfo> tensors)
      : seed_(seed), tensors_(std::move(tensors)) {}

  const std::vector<tensor::TensorInfo>& tensors() const override { return tensors_; }
  std::uint64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }

  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    MESH_ASSIGN_OR_RETURN(const tensor::TensorInfo* info,
                          formats::check_part(*this, name, offset, out.size()));
    const Elements elements(seed_, *info);
    if (tensor::is_quantized(info->dtype)) {
      fill_blocks(*info, elements, offset, out);
    } else if (info->dtype == tensor::DType::kBF16) {
      fill(offset, out, [&](std::uint64_t index) { return elements.bf16(index); });
    } else {
      fill(offset, out,
           [&](std::uint64_t index) { return tensor::bf16_to_f32(elements.bf16(index)); });
    }
    bytes_read_.fetch_add(out.size(), std::memory_order_relaxed);
    return {};
  }

 private:
  // Bytes [offset, offset + out.size()) of the elements that `element` gives; both ends may cut
  // one.
  template <typename ElementAt>
  static void fill(std::uint64_t offset, std::span<std::byte> out, const ElementAt& element) {
    if (out.empty()) return;  // its pointer may be null
    constexpr std::size_t kWidth = sizeof(element(0));
    std::uint64_t index = offset / kWidth;
    if (const auto skip = static_cast<std::size_t>(offset % kWidth); skip != 0) {
      const auto value = element(index++);
      const std::size_t count = std::min(kWidth - skip, out.size());
      std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&value) + skip, count);
      out = out.subspan(count);
    }
    for (; out.size() >= kWidth; out = out.subspan(kWidth)) {
      const auto value = element(index++);
      std::memcpy(out.data(), &value, kWidth);
    }
    if (!out.empty()) {
      const auto value = element(index);
      std::memcpy(out.data(), &value, out.size());
    }
  }

  // Likewise of blocks.
  static void fill_blocks(const tensor::TensorInfo& info, const Elements& elements,
                          std::uint64_t offset, std::span<std::byte> out) {
    const std::size_t width = tensor::block_bytes(info.dtype);
    std::vector<std::byte> block(width);
    for (std::uint64_t index = offset / width; !out.empty(); ++index) {
      random_block(info.dtype, elements.key(), index, elements.deviation(), block);
      const auto skip = static_cast<std::size_t>(offset % width);
      const std::size_t count = std::min(width - skip, out.size());
      std::memcpy(out.data(), block.data() + skip, count);
      out = out.subspan(count);
      offset += count;
    }
  }

  const std::uint64_t seed_;
  const std::vector<tensor::TensorInfo> tensors_;
  mutable std::atomic<std::uint64_t> bytes_read_{0};
};

// "Qwen2MoeForCausalLM" of "qwen2_moe".
std::string architecture(const std::string& family) {
  std::string name;
  bool starts_word = true;
  for (const char c : family) {
    if (c != '_')
      name += starts_word && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    starts_word = c == '_';
  }
  return name + "ForCausalLM";
}

std::string config_json(const RandomModelOptions& options) {
  Json config;
  config["architectures"] = {architecture(options.family)};
  config["model_type"] = options.family;
  config["dtype"] = options.dtype == tensor::DType::kF32 ? "float32" : "bfloat16";
  config["hidden_act"] = "silu";
  config["hidden_size"] = options.hidden;
  config["intermediate_size"] = options.intermediate;
  config["num_hidden_layers"] = options.layers;
  config["num_attention_heads"] = options.heads;
  config["num_key_value_heads"] = options.kv_heads;
  config["head_dim"] = options.head_dim;
  config["vocab_size"] = options.vocabulary;
  config["max_position_embeddings"] = options.context;
  config["rms_norm_eps"] = options.norm_eps;
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", options.rope_theta}};
  config["tie_word_embeddings"] = options.tied;
  if (options.family.ends_with("_moe")) {
    config["num_experts"] = options.experts;
    config["num_experts_per_tok"] = options.top_k;
    config["moe_intermediate_size"] = options.expert_intermediate;
    config["norm_topk_prob"] = options.normalise;
    config["decoder_sparse_step"] = options.sparse_step;
    config["mlp_only_layers"] = options.mlp_only_layers;
  }
  if (options.family == "qwen2_moe")
    config["shared_expert_intermediate_size"] = options.shared_intermediate;
  if (options.tokenizer) config["eos_token_id"] = kTurnEndId;
  return config.dump(2) + "\n";
}

std::string utf8(std::uint32_t character) {  // below 0x800
  if (character < 0x80) return std::string(1, static_cast<char>(character));
  return {static_cast<char>(0xC0 | (character >> 6)), static_cast<char>(0x80 | (character & 0x3F))};
}

// The alphabet of byte-level BPE: printable bytes stand for themselves, the others for U+0100
// onwards. Ids are given in the order of the characters. Source: Radford et al. 2019,
// bytes_to_unicode.
std::vector<std::string> byte_alphabet() {
  std::vector<std::string> alphabet;
  const auto is_printable = [](std::uint32_t byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
  };
  for (std::uint32_t byte = 0; byte < 256; ++byte)
    if (is_printable(byte)) alphabet.push_back(utf8(byte));
  const auto printable = static_cast<std::uint32_t>(alphabet.size());
  for (std::uint32_t i = 0; i < 256 - printable; ++i) alphabet.push_back(utf8(0x100 + i));
  return alphabet;
}

constexpr std::string_view kSpecials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};

std::string tokenizer_json() {
  Json vocabulary = Json::object();
  const std::vector<std::string> alphabet = byte_alphabet();
  for (std::size_t id = 0; id < alphabet.size(); ++id) vocabulary[alphabet[id]] = id;
  Json added = Json::array();
  for (std::size_t i = 0; i < std::size(kSpecials); ++i)
    added.push_back({{"id", alphabet.size() + i},
                     {"content", kSpecials[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  constexpr const char* kPattern =
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
      "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
      "\\s+(?!\\S)|\\s+";
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kPattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const auto byte_level = [](bool use_regex) {
    return Json{{"type", "ByteLevel"},
                {"add_prefix_space", false},
                {"trim_offsets", true},
                {"use_regex", use_regex}};
  };
  Json tokenizer;
  tokenizer["version"] = "1.0";
  tokenizer["truncation"] = nullptr;
  tokenizer["padding"] = nullptr;
  tokenizer["added_tokens"] = std::move(added);
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = {{"type", "Sequence"},
                                {"pretokenizers", Json::array({split, byte_level(false)})}};
  tokenizer["post_processor"] = nullptr;
  tokenizer["decoder"] = byte_level(true);
  tokenizer["model"] = {{"type", "BPE"},
                        {"dropout", nullptr},
                        {"unk_token", nullptr},
                        {"continuing_subword_prefix", nullptr},
                        {"end_of_word_suffix", nullptr},
                        {"fuse_unk", false},
                        {"byte_fallback", false},
                        {"ignore_merges", false},
                        {"vocab", std::move(vocabulary)},
                        {"merges", Json::array()}};
  return tokenizer.dump();
}

constexpr const char* kChatTemplate =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

tensor::DType type_of(const RandomModelOptions& options, const TensorRole& role) {
  if (!tensor::is_quantized(options.dtype)) return options.dtype;
  const bool is_router = role.name.ends_with("gate.weight");  // and the gate of a shared expert
  if (role.shape.size() < 2 || is_router) return tensor::DType::kF32;
  if (!options.mixed) return options.dtype;
  const std::string_view name = role.name;
  if (name == kEmbeddingTensor || name == kHeadTensor) return tensor::DType::kQ6_K;
  if (!name.ends_with("v_proj.weight") && !name.ends_with("down_proj.weight")) return options.dtype;
  constexpr std::string_view kLayers = "model.layers.";
  const char last = name[name.find('.', kLayers.size()) - 1];  // digit of the layer's number
  return (last - '0') % 2 == 0 ? tensor::DType::kQ6_K : options.dtype;
}

// The spec that the configuration means, found before there are tensors: only the embedding is
// looked at.
Result<std::vector<tensor::TensorInfo>> tensor_list(const RandomModelOptions& options,
                                                    formats::ModelFiles files) {
  std::vector<tensor::TensorInfo> embedding = {{.name = kEmbeddingTensor,
                                                .dtype = options.dtype,
                                                .shape = {options.vocabulary, options.hidden}}};
  files.tensors = std::make_shared<RandomSource>(options.seed, std::move(embedding));
  MESH_ASSIGN_OR_RETURN(const ModelSpec spec, parse_config(files));
  std::vector<tensor::TensorInfo> tensors;
  for (TensorRole& role : model_roles(spec, {0, spec.layers}).all()) {
    const tensor::DType type = type_of(options, role);
    if (!formats::checked_bytes(role.shape, type))
      return Error(
          Code::kInvalidArgument,
          fmt::format("tensor {} of shape {} cannot be {}: rows are not whole blocks of {}",
                      role.name, tensor::shape_text(role.shape), tensor::dtype_name(type),
                      tensor::block_elements(type)));
    tensors.push_back(
        {.name = std::move(role.name), .dtype = type, .shape = std::move(role.shape)});
  }
  std::sort(
      tensors.begin(), tensors.end(),
      [](const tensor::TensorInfo& a, const tensor::TensorInfo& b) { return a.name < b.name; });
  return tensors;
}

Result<void> write_text(const std::filesystem::path& path, const std::string& text) {
  if (text.empty()) return {};
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return Error(Code::kUnavailable, path.string() + ": cannot be written");
  return {};
}

}  // namespace

Result<formats::ModelFiles> make_random_model(const RandomModelOptions& options) {
  if (options.dtype != tensor::DType::kF32 && options.dtype != tensor::DType::kBF16 &&
      !tensor::is_quantized(options.dtype))
    return Error(Code::kInvalidArgument,
                 fmt::format("a random model of {}", tensor::dtype_name(options.dtype)));
  if (options.family.empty()) return Error(Code::kInvalidArgument, "a random model needs a family");
  if (options.tokenizer && options.vocabulary < kByteTokenizerIds)
    return Error(Code::kInvalidArgument, fmt::format("a vocabulary of {} for a tokenizer of {} ids",
                                                     options.vocabulary, kByteTokenizerIds));
  formats::ModelFiles files;
  files.name = fmt::format("random-{}-{}", options.family, options.seed);
  files.origin = "generated";
  files.config_json = config_json(options);
  if (options.tokenizer) {
    files.generation_config_json =
        fmt::format("{{\"eos_token_id\": [{}, {}]}}\n", kTurnEndId, kEndOfTextId);
    files.tokenizer_json = tokenizer_json();
    files.tokenizer_config_json =
        "{\"eos_token\": \"<|im_end|>\", \"pad_token\": \"<|endoftext|>\"}\n";
    files.chat_template = kChatTemplate;
  }
  MESH_ASSIGN_OR_RETURN(std::vector<tensor::TensorInfo> tensors, tensor_list(options, files));
  files.tensors = std::make_shared<RandomSource>(options.seed, std::move(tensors));
  return files;
}

Result<void> write_model(const std::string& directory, const formats::ModelFiles& files) {
  const std::filesystem::path root(directory);
  std::error_code failed;
  std::filesystem::create_directories(root, failed);
  if (failed) return Error(Code::kUnavailable, fmt::format("{}: {}", directory, failed.message()));
  MESH_RETURN_IF_ERROR(write_text(root / "config.json", files.config_json));
  MESH_RETURN_IF_ERROR(write_text(root / "generation_config.json", files.generation_config_json));
  MESH_RETURN_IF_ERROR(write_text(root / "tokenizer.json", files.tokenizer_json));
  MESH_RETURN_IF_ERROR(write_text(root / "tokenizer_config.json", files.tokenizer_config_json));
  MESH_RETURN_IF_ERROR(write_text(root / "chat_template.jinja", files.chat_template));
  MESH_ASSIGN_OR_RETURN(
      const std::unique_ptr<formats::SafetensorsWriter> writer,
      formats::SafetensorsWriter::create((root / "model.safetensors").string(),
                                         files.tensors->tensors(), {{"format", "pt"}}));
  for (const tensor::TensorInfo& info : files.tensors->tensors()) {
    MESH_ASSIGN_OR_RETURN(const tensor::HostTensor host, files.tensors->read(info.name));
    MESH_RETURN_IF_ERROR(writer->append(info.name, host.bytes));
  }
  return writer->finish();
}

}  // namespace mesh::model
