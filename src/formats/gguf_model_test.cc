#include "formats/gguf_model.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/bytes.h"
#include "formats/gguf_tensors.h"

namespace mesh::formats {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using tensor::DType;

// Tensors of random bytes; counts reads.
class MemorySource final : public TensorSource {
 public:
  void add(const std::string& name, DType dtype, tensor::Shape shape) {
    tensor::TensorInfo info{.name = name, .dtype = dtype, .shape = std::move(shape)};
    std::vector<std::byte>& bytes = bytes_[name];
    bytes.resize(static_cast<std::size_t>(info.bytes()));
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_() & 0xFF);
    remove_info(name);
    infos_.push_back(std::move(info));
    std::sort(infos_.begin(), infos_.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
  }
  void add(const std::string& name, const std::vector<float>& values) {
    add(name, DType::kF32, {static_cast<std::int64_t>(values.size())});
    std::memcpy(bytes_[name].data(), values.data(), values.size() * sizeof(float));
  }
  void remove(const std::string& name) {
    remove_info(name);
    bytes_.erase(name);
  }
  const std::vector<std::byte>& bytes(const std::string& name) const { return bytes_.at(name); }
  int reads() const { return reads_; }

  const std::vector<tensor::TensorInfo>& tensors() const override { return infos_; }
  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    const auto checked = check_part(*this, name, offset, out.size());
    if (!checked.ok()) return checked.error();
    std::memcpy(out.data(), bytes_.at(name).data() + offset, out.size());
    ++reads_;
    return {};
  }
  std::uint64_t bytes_read() const override { return 0; }

 private:
  void remove_info(const std::string& name) {
    infos_.erase(std::remove_if(infos_.begin(), infos_.end(),
                                [&](const auto& info) { return info.name == name; }),
                 infos_.end());
  }
  std::mt19937 random_{7};
  std::map<std::string, std::vector<std::byte>> bytes_;
  std::vector<tensor::TensorInfo> infos_;
  mutable std::atomic<int> reads_ = 0;
};

struct Parts {
  GgufMetadata metadata;
  std::shared_ptr<MemorySource> tensors = std::make_shared<MemorySource>();

  Result<ModelFiles> open() const {
    return gguf_model_files({metadata, tensors, "tiny", "/models/tiny.gguf"});
  }
  Json config() const {
    const auto files = open();
    EXPECT_TRUE(files.ok()) << files.error().message;
    return files.ok() ? Json::parse(files->config_json) : Json();
  }
  Json tokenizer() const { return Json::parse(open().value().tokenizer_json); }
};

constexpr std::int64_t kHidden = 64;
constexpr std::int64_t kVocabulary = 12;

void add_layer(MemorySource& tensors, int layer) {
  const auto name = [&](const char* rest) { return fmt::format("blk.{}.{}", layer, rest); };
  tensors.add(name("attn_norm.weight"), DType::kF32, {kHidden});
  tensors.add(name("ffn_norm.weight"), DType::kF32, {kHidden});
  tensors.add(name("attn_q.weight"), DType::kQ8_0, {64, kHidden});
  tensors.add(name("attn_k.weight"), DType::kQ8_0, {32, kHidden});
  tensors.add(name("attn_v.weight"), DType::kQ8_0, {32, kHidden});
  tensors.add(name("attn_output.weight"), DType::kQ8_0, {kHidden, 64});
}

// Two layers of 4 heads of 16, 2 of them for keys.
Parts tiny(const std::string& architecture, const std::string& pre) {
  Parts parts;
  auto& values = parts.metadata.values;
  const auto set = [&](const char* name, GgufValue value) {
    values[architecture + "." + name] = std::move(value);
  };
  const auto whole = [](std::uint64_t value) { return GgufValue(value); };
  values["general.architecture"] = architecture;
  set("block_count", whole(2));
  set("context_length", whole(4096));
  set("embedding_length", whole(kHidden));
  set("feed_forward_length", whole(96));
  set("attention.head_count", whole(4));
  set("attention.head_count_kv", whole(2));
  set("attention.layer_norm_rms_epsilon", double{1e-5f});
  set("rope.freq_base", 500000.0);
  values["tokenizer.ggml.model"] = std::string("gpt2");
  values["tokenizer.ggml.pre"] = pre;
  values["tokenizer.ggml.tokens"] = std::vector<std::string>{"a",          "b",
                                                             "ab",         "Ġ",
                                                             "Ġa",         "<think>",
                                                             "<s>",        "<|eot_id|>",
                                                             "<|im_end|>", "<|end_of_text|>",
                                                             "[PAD10]",    "\"\\\u0122\n\x01"};
  values["tokenizer.ggml.token_type"] =
      std::vector<std::int64_t>{1, 1, 1, 1, 1, 4, 3, 3, 1, 3, 5, 1};
  values["tokenizer.ggml.merges"] = std::vector<std::string>{"a b", "Ġ a"};
  values["tokenizer.ggml.bos_token_id"] = whole(6);
  values["tokenizer.ggml.eos_token_id"] = whole(7);
  values["tokenizer.chat_template"] = std::string("{{ bos_token }}");
  parts.tensors->add("token_embd.weight", DType::kQ8_0, {kVocabulary, kHidden});
  parts.tensors->add("output_norm.weight", DType::kF32, {kHidden});
  for (int layer = 0; layer < 2; ++layer) {
    add_layer(*parts.tensors, layer);
    if (architecture.find("moe") != architecture.npos) continue;
    const std::string prefix = fmt::format("blk.{}.ffn_", layer);
    parts.tensors->add(prefix + "gate.weight", DType::kQ4_0, {96, kHidden});
    parts.tensors->add(prefix + "up.weight", DType::kQ4_0, {96, kHidden});
    parts.tensors->add(prefix + "down.weight", DType::kQ4_0, {kHidden, 96});
  }
  return parts;
}

// As tiny(), with 8 experts in the second layer.
Parts tiny_moe(const std::string& architecture) {
  Parts parts = tiny(architecture, "qwen2");
  MemorySource& tensors = *parts.tensors;
  auto& values = parts.metadata.values;
  values[architecture + ".expert_count"] = std::uint64_t{8};
  values[architecture + ".expert_used_count"] = std::uint64_t{2};
  tensors.add("blk.1.ffn_gate_inp.weight", DType::kF32, {8, kHidden});
  tensors.add("blk.1.ffn_gate_exps.weight", DType::kQ8_0, {8, 32, kHidden});
  tensors.add("blk.1.ffn_up_exps.weight", DType::kQ8_0, {8, 32, kHidden});
  tensors.add("blk.1.ffn_down_exps.weight", DType::kQ8_0, {8, kHidden, 32});
  return parts;
}

void expect_refused(const Parts& parts, Code code, const std::string& message) {
  const auto files = parts.open();
  ASSERT_FALSE(files.ok()) << message;
  EXPECT_EQ(files.error().code, code) << files.error().message;
  EXPECT_NE(files.error().message.find(message), std::string::npos) << files.error().message;
  EXPECT_EQ(files.error().message.rfind("/models/tiny.gguf: ", 0), 0u) << files.error().message;
}

// With one key of the metadata replaced.
Parts with(Parts parts, const std::string& key, GgufValue value) {
  parts.metadata.values[key] = std::move(value);
  return parts;
}
Parts without(Parts parts, const std::string& key) {
  parts.metadata.values.erase(key);
  return parts;
}

// --- configuration ------------------------------------------------------------------------------

TEST(GgufConfig, SpellsLlamaAsTheHub) {
  const Parts parts = tiny("llama", "llama-bpe");
  const auto files = parts.open();
  ASSERT_TRUE(files.ok()) << files.error().message;
  EXPECT_EQ(files->name, "tiny");
  EXPECT_EQ(files->origin, "/models/tiny.gguf");
  const Json config = Json::parse(files->config_json);
  const Json expected = {{"model_type", "llama"},
                         {"architectures", {"LlamaForCausalLM"}},
                         {"hidden_act", "silu"},
                         {"num_hidden_layers", 2},
                         {"hidden_size", 64},
                         {"intermediate_size", 96},
                         {"num_attention_heads", 4},
                         {"num_key_value_heads", 2},
                         {"head_dim", 16},
                         {"vocab_size", 12},
                         {"max_position_embeddings", 4096},
                         {"rms_norm_eps", double{1e-5f}},
                         {"rope_theta", 500000.0},
                         {"attention_bias", false},
                         {"tie_word_embeddings", true},
                         {"eos_token_id", {7, 9}}};
  EXPECT_EQ(config, expected) << config.dump(1);
  // The number that is printed is the f32 again.
  EXPECT_EQ(static_cast<float>(config["rms_norm_eps"].get<double>()), 1e-5f);
  EXPECT_EQ(files->tensors->bytes_read(), 0u);
}

TEST(GgufConfig, ReadsWhatTheTensorsSay) {
  Parts parts = tiny("qwen3", "qwen2");
  parts.tensors->add("output.weight", DType::kQ6_K, {kVocabulary, 256});
  parts.tensors->add("token_embd.weight", DType::kF16, {kVocabulary + 3, kHidden});
  parts.tensors->add("blk.0.attn_q.bias", DType::kF32, {64});
  const Json config = parts.config();
  EXPECT_EQ(config["model_type"], "qwen3");
  EXPECT_EQ(config["tie_word_embeddings"], false);
  EXPECT_EQ(config["vocab_size"], kVocabulary + 3);
  EXPECT_EQ(config["attention_bias"], true);
  parts = tiny("qwen2", "qwen2");
  parts.tensors->add("blk.0.attn_q.bias", DType::kF32, {64});
  EXPECT_EQ(parts.config()["attention_bias"], false);  // the family has those biases by itself
}

TEST(GgufConfig, TakesHeadSizesFromTheirKeys) {
  Parts parts = with(tiny("qwen3", "qwen2"), "qwen3.attention.key_length", std::uint64_t{32});
  expect_refused(parts, Code::kUnsupported, "keys of 32 and values of 16");
  parts = with(parts, "qwen3.attention.value_length", std::uint64_t{32});
  EXPECT_EQ(parts.config()["head_dim"], 32);
  parts = with(parts, "qwen3.rope.dimension_count", std::uint64_t{16});
  expect_refused(parts, Code::kUnsupported, "qwen3.rope.dimension_count is 16 of heads of 32");
}

TEST(GgufConfig, ScalesRope) {
  const Parts plain = tiny("qwen2", "qwen2");
  EXPECT_FALSE(plain.config().contains("rope_scaling"));
  Parts parts = with(plain, "qwen2.rope.scaling.factor", 4.0);
  EXPECT_EQ(parts.config()["rope_scaling"], Json({{"rope_type", "linear"}, {"factor", 4.0}}));
  parts = with(parts, "qwen2.rope.scaling.type", std::string("yarn"));
  EXPECT_EQ(
      parts.config()["rope_scaling"],
      Json({{"rope_type", "yarn"}, {"factor", 4.0}, {"beta_fast", 32.0}, {"beta_slow", 1.0}}));
  parts = with(parts, "qwen2.rope.scaling.original_context_length", std::uint64_t{32768});
  parts = with(parts, "qwen2.rope.scaling.yarn_beta_fast", 16.0);
  EXPECT_EQ(parts.config()["rope_scaling"]["original_max_position_embeddings"], 32768);
  EXPECT_EQ(parts.config()["rope_scaling"]["beta_fast"], 16.0);
  parts = with(parts, "qwen2.rope.scaling.type", std::string("none"));
  EXPECT_FALSE(parts.config().contains("rope_scaling"));
  parts = with(parts, "qwen2.rope.scaling.type", std::string("longrope"));
  expect_refused(parts, Code::kUnsupported, "qwen2.rope.scaling.type \"longrope\"");
  parts = with(plain, "qwen2.rope.scale_linear", 2.0);
  EXPECT_EQ(parts.config()["rope_scaling"]["factor"], 2.0);
}

TEST(GgufConfig, KeepsFrequencyDivisors) {
  const std::vector<float> factors{1, 1, 1.1f, 2, 4, 8, 8, 8};
  Parts parts = tiny("llama", "llama-bpe");
  parts.tensors->add("rope_freqs.weight", factors);
  const Json scaling = parts.config()["rope_scaling"];
  EXPECT_EQ(scaling["rope_type"], "factors");
  EXPECT_EQ(scaling["factors"].get<std::vector<float>>(), factors);
  EXPECT_EQ(scaling["factors"][2].get<double>(), double{1.1f});
  EXPECT_EQ(parts.open()->tensors->find("rope_freqs.weight"), nullptr);
  expect_refused(with(parts, "llama.rope.scaling.factor", 4.0), Code::kUnsupported,
                 "rope_freqs.weight together with llama.rope.scaling.type");
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    parts.tensors->add("rope_freqs.weight", {1, 1, 1, bad, 4, 8, 8, 8});
    expect_refused(parts, Code::kCorrupt, "divisors are above 0");
  }
  parts.tensors->add("rope_freqs.weight", {1, 1, 1});
  expect_refused(parts, Code::kCorrupt, "rope_freqs.weight is [3] of F32, it must be [8]");
  parts = tiny("qwen2", "qwen2");
  parts.tensors->add("rope_freqs.weight", factors);
  expect_refused(parts, Code::kUnsupported, "rope_freqs.weight");
}

TEST(GgufConfig, DescribesExperts) {
  Parts parts = tiny_moe("qwen3moe");
  Json config = parts.config();
  EXPECT_EQ(config["model_type"], "qwen3_moe");
  EXPECT_EQ(config["num_experts"], 8);
  EXPECT_EQ(config["num_experts_per_tok"], 2);
  EXPECT_EQ(config["moe_intermediate_size"], 32);  // off the tensor
  EXPECT_EQ(config["norm_topk_prob"], true);
  EXPECT_EQ(config["decoder_sparse_step"], 1);
  EXPECT_EQ(config["mlp_only_layers"], Json::array({0}));
  EXPECT_FALSE(config.contains("shared_expert_intermediate_size"));
  expect_refused(with(parts, "qwen3moe.expert_gating_func", std::uint64_t{2}), Code::kUnsupported,
                 "qwen3moe.expert_gating_func is 2");

  parts = tiny_moe("qwen2moe");
  parts.tensors->add("blk.1.ffn_gate_shexp.weight", DType::kQ8_0, {128, kHidden});
  parts = with(parts, "qwen2moe.expert_feed_forward_length", std::uint64_t{33});
  config = parts.config();
  EXPECT_EQ(config["model_type"], "qwen2_moe");
  EXPECT_EQ(config["moe_intermediate_size"], 33);
  EXPECT_EQ(config["shared_expert_intermediate_size"], 128);
  EXPECT_EQ(config["norm_topk_prob"], false);
  parts = with(parts, "qwen2moe.expert_weights_norm", true);
  EXPECT_EQ(parts.config()["norm_topk_prob"], true);
}

TEST(GgufConfig, RefusesByName) {
  const Parts good = tiny("llama", "llama-bpe");
  expect_refused(with(good, "general.architecture", std::string("mamba")), Code::kUnsupported,
                 "architecture \"mamba\" is not supported; supported are llama, qwen2, qwen3, "
                 "qwen2moe, qwen3moe");
  expect_refused(without(good, "general.architecture"), Code::kNotFound, "general.architecture");
  expect_refused(without(good, "llama.block_count"), Code::kNotFound, "llama.block_count");
  expect_refused(with(good, "llama.block_count", std::uint64_t{0}), Code::kCorrupt,
                 "llama.block_count is 0");
  expect_refused(with(good, "llama.block_count", std::uint64_t{1} << 40), Code::kCorrupt,
                 "llama.block_count");
  expect_refused(with(good, "llama.embedding_length", std::string("x")), Code::kCorrupt,
                 "llama.embedding_length");
  expect_refused(with(good, "llama.attention.head_count", std::uint64_t{0}), Code::kCorrupt,
                 "llama.attention.head_count is 0");
  expect_refused(with(good, "llama.embedding_length", std::uint64_t{60}), Code::kCorrupt,
                 "heads of 15");
  expect_refused(with(good, "llama.rope.freq_base", std::nan("")), Code::kCorrupt,
                 "llama.rope.freq_base is not a finite number");
  expect_refused(with(good, "llama.expert_count", std::uint64_t{8}), Code::kUnsupported,
                 "architecture llama with experts");
  Parts parts = tiny("llama", "llama-bpe");
  parts.tensors->remove("token_embd.weight");
  expect_refused(parts, Code::kNotFound, "token_embd.weight");
  parts.tensors->add("token_embd.weight", DType::kF32, {64});
  expect_refused(parts, Code::kCorrupt, "token_embd.weight is [64]");
}

// --- tokenizer ----------------------------------------------------------------------------------

TEST(GgufTokenizer, SpellsTheFileOfTheHub) {
  const Parts parts = tiny("llama", "llama-bpe");
  const Json tokenizer = parts.tokenizer();
  EXPECT_EQ(tokenizer["model"]["vocab"], Json({{"a", 0},
                                               {"b", 1},
                                               {"ab", 2},
                                               {"Ġ", 3},
                                               {"Ġa", 4},
                                               {"<|im_end|>", 8},
                                               {"\"\\\u0122\n\x01", 11}}));
  EXPECT_EQ(tokenizer["model"]["merges"], Json({"a b", "Ġ a"}));
  EXPECT_EQ(tokenizer["model"]["ignore_merges"], true);
  EXPECT_TRUE(tokenizer["normalizer"].is_null());
  ASSERT_EQ(tokenizer["added_tokens"].size(), 4u);
  EXPECT_EQ(tokenizer["added_tokens"][0]["content"], "<think>");
  EXPECT_EQ(tokenizer["added_tokens"][0]["special"], false);
  EXPECT_EQ(tokenizer["added_tokens"][1]["id"], 6);
  EXPECT_EQ(tokenizer["added_tokens"][1]["special"], true);
  EXPECT_EQ(tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
  EXPECT_EQ(tokenizer["post_processor"]["special_tokens"]["<s>"]["ids"], Json({6}));
  EXPECT_EQ(tokenizer["post_processor"]["single"].size(), 2u);
  const auto files = parts.open();
  EXPECT_EQ(Json::parse(files->tokenizer_config_json),
            Json({{"bos_token", "<s>"}, {"eos_token", "<|eot_id|>"}}));
  EXPECT_EQ(files->chat_template, "{{ bos_token }}");
  EXPECT_EQ(files->generation_config_json, "");
}

TEST(GgufTokenizer, FollowsThePreTokenizer) {
  Json tokenizer = tiny("qwen2", "qwen2").tokenizer();
  EXPECT_EQ(tokenizer["model"]["ignore_merges"], false);
  EXPECT_EQ(tokenizer["normalizer"]["type"], "NFC");
  EXPECT_EQ(tokenizer["post_processor"]["single"].size(), 1u);
  tokenizer = tiny("qwen2", "deepseek-v3").tokenizer();
  EXPECT_EQ(tokenizer["pre_tokenizer"]["pretokenizers"].size(), 4u);
  expect_refused(tiny("qwen2", "default"), Code::kUnsupported,
                 "tokenizer.ggml.pre \"default\" is not supported; supported are llama-bpe");
  expect_refused(without(tiny("qwen2", "qwen2"), "tokenizer.ggml.pre"), Code::kUnsupported,
                 "does not name its pre-tokenizer");
}

TEST(GgufTokenizer, AddsWhatTheFileAsksFor) {
  const Parts plain = tiny("llama", "llama-bpe");
  Parts parts = with(plain, "tokenizer.ggml.add_bos_token", false);
  EXPECT_EQ(parts.tokenizer()["post_processor"]["single"].size(), 1u);
  parts = with(plain, "tokenizer.ggml.add_eos_token", true);
  EXPECT_EQ(parts.tokenizer()["post_processor"]["single"][2]["SpecialToken"]["id"], "<|eot_id|>");
  parts = without(plain, "tokenizer.ggml.bos_token_id");
  EXPECT_EQ(parts.tokenizer()["post_processor"]["single"].size(), 1u);
  parts = with(parts, "tokenizer.ggml.add_bos_token", true);
  expect_refused(parts, Code::kNotFound, "tokenizer.ggml.add_bos_token is true");
}

TEST(GgufTokenizer, StopsAtEveryKnownEnd) {
  Parts parts = tiny("llama", "llama-bpe");
  parts = with(parts, "tokenizer.ggml.eom_token_id", std::uint64_t{2});
  parts = with(parts, "tokenizer.ggml.eot_token_id", std::uint64_t{0xFFFFFFFF});  // none
  EXPECT_EQ(parts.config()["eos_token_id"], Json({2, 7, 9}));
}

TEST(GgufTokenizer, MayBeMissing) {
  Parts parts = without(tiny("llama", "llama-bpe"), "tokenizer.chat_template");
  EXPECT_EQ(parts.open()->chat_template, "");
  EXPECT_FALSE(parts.open()->tokenizer_json.empty());
  for (const Parts& bare : {without(parts, "tokenizer.ggml.model"),
                            with(parts, "tokenizer.ggml.model", std::string("none"))}) {
    EXPECT_EQ(bare.open()->tokenizer_json, "");
    EXPECT_EQ(bare.open()->tokenizer_config_json, "");
    EXPECT_FALSE(bare.config().contains("eos_token_id"));
  }
}

TEST(GgufTokenizer, RefusesByName) {
  const Parts good = tiny("llama", "llama-bpe");
  expect_refused(with(good, "tokenizer.ggml.model", std::string("llama")), Code::kUnsupported,
                 "tokenizer.ggml.model \"llama\" is not supported");
  expect_refused(without(good, "tokenizer.ggml.tokens"), Code::kNotFound, "tokenizer.ggml.tokens");
  expect_refused(without(good, "tokenizer.ggml.merges"), Code::kNotFound, "tokenizer.ggml.merges");
  expect_refused(with(good, "tokenizer.ggml.tokens", std::vector<std::string>{}), Code::kCorrupt,
                 "0 tokens");
  expect_refused(with(good, "tokenizer.ggml.token_type", std::vector<std::int64_t>{1}),
                 Code::kCorrupt, "1 kinds of 12 tokens");
  expect_refused(
      with(good, "tokenizer.ggml.token_type", std::vector<std::int64_t>(12, std::int64_t{7})),
      Code::kCorrupt, "7 is no kind of token");
  expect_refused(with(good, "tokenizer.ggml.merges", std::vector<std::string>{"\xff b"}),
                 Code::kCorrupt, "not valid UTF-8");
  Parts parts = without(good, "tokenizer.ggml.token_type");
  EXPECT_EQ(parts.tokenizer()["model"]["vocab"].size(), 12u);
}

// --- tensors ------------------------------------------------------------------------------------

TEST(GgufTensors, HaveTheNamesOfTheHub) {
  Parts parts = tiny_moe("qwen2moe");
  for (const char* name : {"attn_q.bias", "attn_k.bias", "attn_v.bias"})
    parts.tensors->add(std::string("blk.1.") + name, DType::kF32, {32});
  parts.tensors->add("blk.1.ffn_gate_shexp.weight", DType::kQ8_0, {32, kHidden});
  parts.tensors->add("blk.1.ffn_up_shexp.weight", DType::kQ8_0, {32, kHidden});
  parts.tensors->add("blk.1.ffn_down_shexp.weight", DType::kQ8_0, {kHidden, 32});
  parts.tensors->add("blk.1.ffn_gate_inp_shexp.weight", DType::kF32, {kHidden});
  const auto files = parts.open();
  ASSERT_TRUE(files.ok()) << files.error().message;
  std::map<std::string, std::string> shapes;
  std::string last;
  for (const tensor::TensorInfo& info : files->tensors->tensors()) {
    EXPECT_LT(last, info.name);
    last = info.name;
    shapes[info.name] = tensor::shape_text(info.shape);
  }
  EXPECT_EQ(shapes.size(), parts.tensors->tensors().size());
  EXPECT_EQ(shapes.at("model.embed_tokens.weight"), "[12, 64]");
  EXPECT_EQ(shapes.at("model.norm.weight"), "[64]");
  const std::string layer = "model.layers.1.";
  for (const char* name :
       {"input_layernorm.weight", "post_attention_layernorm.weight", "self_attn.q_proj.weight",
        "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight",
        "self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias",
        "mlp.shared_expert.gate_proj.weight", "mlp.shared_expert.up_proj.weight",
        "mlp.shared_expert.down_proj.weight"})
    EXPECT_EQ(shapes.count(layer + name), 1u) << name;
  EXPECT_EQ(shapes.at(layer + "mlp.gate.weight"), "[8, 64]");
  EXPECT_EQ(shapes.at(layer + "mlp.experts.gate_proj.weight"), "[8, 32, 64]");
  EXPECT_EQ(shapes.at(layer + "mlp.experts.up_proj.weight"), "[8, 32, 64]");
  EXPECT_EQ(shapes.at(layer + "mlp.experts.down_proj.weight"), "[8, 64, 32]");
  EXPECT_EQ(shapes.at(layer + "mlp.shared_expert_gate.weight"), "[1, 64]");
  const auto gate = files->tensors->read(layer + "mlp.shared_expert_gate.weight");
  EXPECT_TRUE(std::equal(gate->bytes.begin(), gate->bytes.end(),
                         parts.tensors->bytes("blk.1.ffn_gate_inp_shexp.weight").begin()));
}

TEST(GgufTensors, RefuseWhatAnArchitectureDoesNotHave) {
  for (const char* name :
       {"blk.0.attn_sinks.weight", "blk.0.attn_q_norm.weight", "blk.0.ffn_gate_inp.weight",
        "blk.x.attn_q.weight", "blk.00.attn_q.weight", "blk.99999.attn_q.weight",
        "blk..attn_q.bias", "blk.0.", "blk.0", "v.patch_embd.weight"}) {
    Parts parts = tiny("llama", "llama-bpe");
    parts.tensors->add(name, DType::kF32, {16});
    expect_refused(parts, Code::kUnsupported, fmt::format("tensor {} is not one", name));
  }
}

// What the hub has of a q or k tensor: row (head, half, j) of the file's (head, j, half).
std::vector<std::byte> in_hub_order(const std::vector<std::byte>& file, std::size_t row_bytes) {
  constexpr std::size_t kHead = 16;
  std::vector<std::byte> out;
  const std::size_t rows = file.size() / row_bytes;
  for (std::size_t head = 0; head < rows; head += kHead)
    for (std::size_t half = 0; half < 2; ++half)
      for (std::size_t j = 0; j < kHead / 2; ++j) {
        const auto row =
            file.begin() + static_cast<std::ptrdiff_t>((head + 2 * j + half) * row_bytes);
        out.insert(out.end(), row, row + static_cast<std::ptrdiff_t>(row_bytes));
      }
  return out;
}

TEST(GgufTensors, GiveLlamaRowsInTheHubsOrder) {
  Parts parts = tiny("llama", "llama-bpe");
  parts.tensors->add("blk.0.attn_q.bias", DType::kF32, {64});
  parts.tensors->add("blk.0.attn_k.bias", DType::kF32, {32});
  parts.tensors->add("blk.1.attn_q.weight", DType::kF16, {64, kHidden});
  const auto tensors = parts.open().value().tensors;
  struct Case {
    const char *file, *hub;
    std::size_t row_bytes;
  };
  const std::size_t q8_row = kHidden / 32 * 34;
  for (const Case& c :
       {Case{"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", q8_row},
        Case{"blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", q8_row},
        Case{"blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 2 * kHidden},
        Case{"blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", 4},
        Case{"blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias", 4}}) {
    SCOPED_TRACE(c.hub);
    const std::vector<std::byte> expected = in_hub_order(parts.tensors->bytes(c.file), c.row_bytes);
    EXPECT_NE(expected, parts.tensors->bytes(c.file));
    const int before = parts.tensors->reads();
    const auto whole = tensors->read(c.hub);
    ASSERT_TRUE(whole.ok());
    EXPECT_TRUE(
        std::equal(whole->bytes.begin(), whole->bytes.end(), expected.begin(), expected.end()));
    EXPECT_LE(parts.tensors->reads() - before, 4);  // one per head
    std::mt19937 random(11);
    for (int i = 0; i < 200; ++i) {
      const std::size_t offset = random() % (expected.size() + 1);
      const std::size_t most = expected.size() - offset;
      const std::size_t count = i % 2 == 0 ? random() % (most + 1) : std::min<std::size_t>(most, 9);
      std::vector<std::byte> part(count);
      ASSERT_TRUE(tensors->read_part(c.hub, offset, part).ok());
      EXPECT_TRUE(std::equal(part.begin(), part.end(),
                             expected.begin() + static_cast<std::ptrdiff_t>(offset)))
          << "seed 11, " << count << " bytes at " << offset;
    }
    std::vector<std::byte> beyond(2);
    EXPECT_EQ(tensors->read_part(c.hub, expected.size() - 1, beyond).error().code,
              Code::kInvalidArgument);
  }
  const auto value = tensors->read("model.layers.0.self_attn.v_proj.weight");
  EXPECT_TRUE(std::equal(value->bytes.begin(), value->bytes.end(),
                         parts.tensors->bytes("blk.0.attn_v.weight").begin()));
}

TEST(GgufTensors, ReadFewRowsOnly) {
  // A sample of a large tensor must not cost a head.
  const auto file = std::make_shared<MemorySource>();
  file->add("blk.0.attn_q.weight", DType::kF16, {256, 512});
  const auto tensors = gguf_hub_tensors(file, gguf_architecture::kLlama, 128).value();
  std::vector<std::byte> sample(64);
  ASSERT_TRUE(tensors->read_part("model.layers.0.self_attn.q_proj.weight", 1000, sample).ok());
  EXPECT_EQ(file->reads(), 2);  // it crosses a row
  EXPECT_EQ(tensors->bytes_read(), 64u);
}

TEST(GgufTensors, LeaveTheRowsOfOthersAlone) {
  const Parts parts = tiny("qwen2", "qwen2");
  const auto query = parts.open()->tensors->read("model.layers.0.self_attn.q_proj.weight");
  ASSERT_TRUE(query.ok());
  EXPECT_TRUE(std::equal(query->bytes.begin(), query->bytes.end(),
                         parts.tensors->bytes("blk.0.attn_q.weight").begin()));
}

TEST(GgufTensors, WantWholeHeads) {
  Parts parts = tiny("llama", "llama-bpe");
  parts.tensors->add("blk.0.attn_k.weight", DType::kQ8_0, {24, kHidden});
  expect_refused(parts, Code::kCorrupt, "blk.0.attn_k.weight is [24, 64]");
  parts.tensors->add("blk.0.attn_k.weight", DType::kQ8_0, {0, kHidden});
  expect_refused(parts, Code::kCorrupt, "blk.0.attn_k.weight");
}

// --- open_model() -------------------------------------------------------------------------------

class OpenGguf : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / fmt::format("mesh-gguf-model-{}", ::getpid());
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  // A whole model as a file.
  void write(const fs::path& path) {
    fs::create_directories(path.parent_path());
    const Parts parts = tiny("qwen2", "qwen2");
    std::vector<tensor::HostTensor> tensors;
    for (const tensor::TensorInfo& info : parts.tensors->tensors())
      tensors.push_back(parts.tensors->read(info.name).value());
    const auto written = write_gguf(path.string(), parts.metadata, std::move(tensors));
    ASSERT_TRUE(written.ok()) << written.error().message;
  }
  void expect_model(const std::string& spec, const std::string& name) {
    const auto files = open_model(spec, environment());
    ASSERT_TRUE(files.ok()) << files.error().message;
    EXPECT_EQ(files->name, name);
    EXPECT_EQ(Json::parse(files->config_json)["model_type"], "qwen2");
    EXPECT_NE(files->tensors->find("model.embed_tokens.weight"), nullptr);
  }
  void expect_refused_spec(const std::string& spec, Code code, const std::string& message) {
    const auto files = open_model(spec, environment());
    ASSERT_FALSE(files.ok());
    EXPECT_EQ(files.error().code, code) << files.error().message;
    EXPECT_NE(files.error().message.find(message), std::string::npos) << files.error().message;
  }
  HubEnvironment environment() const {
    HubEnvironment environment;
    environment.hf_hub_cache = (root_ / "hub").string();
    return environment;
  }
  fs::path root_;
};

TEST_F(OpenGguf, TakesAFileOrADirectoryOfOneModel) {
  write(root_ / "m/small.gguf");
  expect_model((root_ / "m/small.gguf").string(), "small");
  expect_model((root_ / "m").string(), "small");
  std::ofstream(root_ / "m/mmproj-small.gguf") << "GGUF";
  std::ofstream(root_ / "m/config.json") << "{}";  // without safetensors it says nothing
  expect_model((root_ / "m").string(), "small");
  write(root_ / "m/Q4/other.gguf");
  expect_refused_spec((root_ / "m").string(), Code::kInvalidArgument,
                      "holds several GGUF models, name one: Q4/other.gguf, small.gguf");
  std::ofstream(root_ / "broken.gguf") << "GGUF";
  expect_refused_spec((root_ / "broken.gguf").string(), Code::kCorrupt, "broken.gguf");
}

TEST_F(OpenGguf, CountsTheFilesOfOneModelOnce) {
  for (const char* name : {"a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf"})
    write(root_ / "m" / name);
  expect_refused_spec((root_ / "m").string(), Code::kInvalidArgument,
                      "name one: a-00001-of-00002.gguf, b.gguf");
}

TEST_F(OpenGguf, PrefersSafetensors) {
  const std::string fixture = MESH_TEST_DATA "/models/qwen3/";
  fs::create_directories(root_ / "m");
  for (const char* name : {"config.json", "model.safetensors"})
    fs::copy_file(fixture + name, root_ / "m" / name);
  write(root_ / "m/small.gguf");
  const auto files = open_model((root_ / "m").string(), {});
  ASSERT_TRUE(files.ok()) << files.error().message;
  EXPECT_EQ(files->name, "m");
}

TEST_F(OpenGguf, TakesFilesOfTheHubsCache) {
  const fs::path repository = root_ / "hub/models--org--tiny";
  const fs::path snapshot = repository / "snapshots/0123456789abcdef";
  fs::create_directories(repository / "refs");
  std::ofstream(repository / "refs/main") << "0123456789abcdef";
  write(repository / "blobs/one");
  fs::create_directories(snapshot / "BF16");
  fs::create_symlink("../../blobs/one", snapshot / "tiny-Q8_0.gguf");
  expect_model("org/tiny", "org/tiny");
  expect_model("org/tiny:tiny-Q8_0.gguf", "org/tiny:tiny-Q8_0.gguf");
  fs::create_symlink("../../../blobs/one", snapshot / "BF16/tiny.gguf");
  expect_refused_spec("org/tiny", Code::kInvalidArgument, "BF16/tiny.gguf, tiny-Q8_0.gguf");
  expect_model("org/tiny@main:BF16/tiny.gguf", "org/tiny:BF16/tiny.gguf");
  expect_refused_spec("org/tiny:none.gguf", Code::kNotFound,
                      "it holds BF16/tiny.gguf, tiny-Q8_0.gguf");
  expect_refused_spec("org/tiny:refs/main", Code::kUnsupported, "only a .gguf file can be named");
  expect_refused_spec("org/none:a.gguf", Code::kNotFound, "hf download org/none a.gguf");
}

}  // namespace
}  // namespace mesh::formats
