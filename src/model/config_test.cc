#include "model/config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "formats/byte_source.h"
#include "model/random_model.h"
#include "model/registry.h"

namespace mesh::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

const std::string kModels = MESH_TEST_DATA "/models/";

formats::ModelFiles fixture(const std::string& name) {
  return std::move(formats::open_model(kModels + name, {})).value();
}

ModelSpec spec_of(const std::string& name) {
  const auto spec = parse_config(fixture(name));
  EXPECT_TRUE(spec.ok()) << spec.error().message;
  return *spec;
}

// The configuration of a fixture with some fields replaced.
Result<ModelSpec> parse_with(const std::string& name, const Json& changes) {
  formats::ModelFiles files = fixture(name);
  Json config = Json::parse(files.config_json);
  config.update(changes);
  files.config_json = config.dump();
  return parse_config(files);
}

void expect_refused(const std::string& name, const Json& changes, Code code,
                    const std::string& message) {
  const auto spec = parse_with(name, changes);
  ASSERT_FALSE(spec.ok()) << changes;
  EXPECT_EQ(spec.error().code, code) << spec.error().message;
  EXPECT_NE(spec.error().message.find(message), std::string::npos) << spec.error().message;
  EXPECT_EQ(spec.error().message.rfind(name + ": ", 0), 0u) << spec.error().message;
}

TEST(Config, ReadsTheLlamaFixture) {
  ModelSpec expected;
  expected.family = "llama";
  expected.layers = 4;
  expected.hidden = 64;
  expected.intermediate = 128;
  expected.heads = 4;
  expected.kv_heads = 2;
  expected.head_dim = 16;
  expected.vocabulary = 320;
  expected.context = 256;
  expected.norm_eps = 1e-5f;
  expected.tied = true;
  expected.rope = {.theta = 10000.0,
                   .dims = 16,
                   .scaling = RopeScaling::kLlama3,
                   .factor = 8.0,
                   .original_context = 32};
  expected.stop_ids = {313, 316, 317};
  expected.residual = expected.kv = tensor::DType::kF32;
  EXPECT_EQ(spec_of("llama"), expected);
  expected.residual = expected.kv = tensor::DType::kBF16;
  EXPECT_EQ(spec_of("llama-bf16"), expected);
}

TEST(Config, ReadsWhatTheOthersAddToIt) {
  const ModelSpec qwen2 = spec_of("qwen2");
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.qk_norm && qwen2.tied);
  EXPECT_EQ(qwen2.head_dim, 16u);  // absent: hidden / heads
  EXPECT_EQ(qwen2.stop_ids, (std::vector<TokenId>{2, 3}));
  EXPECT_EQ(qwen2.rope, (RopeSpec{.theta = 10000.0, .dims = 16}));
  const ModelSpec qwen3 = spec_of("qwen3");
  EXPECT_TRUE(!qwen3.qkv_bias && !qwen3.o_bias && qwen3.qk_norm && !qwen3.tied);
  EXPECT_EQ(qwen3.head_dim, 32u);
  EXPECT_EQ(qwen3.stop_ids, (std::vector<TokenId>{307, 309}));
  EXPECT_EQ(spec_of("qwen3-sharded"), qwen3);
  EXPECT_EQ(spec_of("qwen2-yarn").rope, (RopeSpec{.theta = 100.0,
                                                  .dims = 16,
                                                  .scaling = RopeScaling::kYarn,
                                                  .factor = 4.0,
                                                  .original_context = 32}));
  const auto pocket = parse_config(formats::open_builtin_model());
  ASSERT_TRUE(pocket.ok()) << pocket.error().message;
  EXPECT_EQ(pocket->layers, 8u);
  EXPECT_EQ(pocket->stop_ids, (std::vector<TokenId>{1527, 1529}));
}

TEST(Config, ReadsExpertsAndWhichLayersHaveThem) {
  const ModelSpec qwen2 = spec_of("qwen2_moe");
  EXPECT_EQ(qwen2.moe, (MoeSpec{.experts = 8,
                                .top_k = 2,
                                .intermediate = 32,
                                .shared_intermediate = 96,
                                .normalise = false,
                                .dense_layers = {0, 1, 2}}));
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.qk_norm && qwen2.is_moe(3) && !qwen2.is_moe(2));
  EXPECT_EQ(qwen2.intermediate, 128u);
  const ModelSpec qwen3 = spec_of("qwen3_moe");
  EXPECT_EQ(qwen3.moe, (MoeSpec{.experts = 8, .top_k = 2, .intermediate = 32, .normalise = true}));
  EXPECT_TRUE(!qwen3.qkv_bias && qwen3.qk_norm && qwen3.is_moe(0));
  EXPECT_EQ(qwen3.head_dim, 32u);
  EXPECT_FALSE(spec_of("qwen3").is_moe(0));
  // What transformers' classes mean by absent fields.
  const auto plain = parse_with("qwen3_moe", {{"num_local_experts", nullptr},
                                              {"num_experts_per_tok", nullptr},
                                              {"moe_intermediate_size", nullptr},
                                              {"norm_topk_prob", nullptr},
                                              {"decoder_sparse_step", nullptr},
                                              {"mlp_only_layers", nullptr},
                                              {"num_key_value_heads", nullptr},
                                              {"head_dim", nullptr}});
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  EXPECT_EQ(plain->moe, (MoeSpec{.experts = 128, .top_k = 8, .intermediate = 768}));
  EXPECT_EQ(plain->kv_heads, 4u);
  EXPECT_EQ(plain->head_dim, 16u);
  const auto old = parse_with("qwen2_moe", {{"num_experts", nullptr},
                                            {"num_experts_per_tok", nullptr},
                                            {"shared_expert_intermediate_size", nullptr},
                                            {"moe_intermediate_size", nullptr},
                                            {"mlp_only_layers", {3, 0, 99, -7}},
                                            {"qkv_bias", false},
                                            {"decoder_sparse_step", 1}});
  ASSERT_TRUE(old.ok()) << old.error().message;
  EXPECT_FALSE(old->qkv_bias);
  EXPECT_EQ(old->moe, (MoeSpec{.experts = 60,
                               .top_k = 4,
                               .intermediate = 1408,
                               .shared_intermediate = 5632,
                               .dense_layers = {0, 3}}));
}

TEST(Config, NoLayerWithExpertsIsNoExperts) {
  for (const Json& none : {Json{{"num_local_experts", 0}}, Json{{"mlp_only_layers", {0, 1, 2, 3}}},
                           Json{{"decoder_sparse_step", 5}}}) {
    const auto spec = parse_with("qwen3_moe", none);
    ASSERT_TRUE(spec.ok()) << spec.error().message;
    EXPECT_EQ(spec->moe, MoeSpec{});
    EXPECT_EQ(canonical_text(*spec).find("moe."), std::string::npos);
  }
}

TEST(Config, RefusesImpossibleExperts) {
  expect_refused("qwen3_moe", {{"num_experts_per_tok", 9}}, Code::kInvalidArgument,
                 "num_experts_per_tok is 9, but num_local_experts is 8");
  expect_refused("qwen3_moe", {{"num_experts", 1}}, Code::kInvalidArgument, "but num_experts is 1");
  expect_refused("qwen3_moe", {{"num_experts_per_tok", 0}}, Code::kInvalidArgument,
                 "num_experts_per_tok is 0");
  expect_refused("qwen3_moe", {{"num_local_experts", 100000}}, Code::kInvalidArgument,
                 "num_local_experts is 100000");
  expect_refused("qwen3_moe", {{"decoder_sparse_step", 0}}, Code::kInvalidArgument,
                 "decoder_sparse_step is 0");
  expect_refused("qwen2_moe", {{"shared_expert_intermediate_size", 0}}, Code::kInvalidArgument,
                 "shared_expert_intermediate_size is 0");
  expect_refused("qwen2_moe", {{"mlp_only_layers", "1"}}, Code::kCorrupt, "mlp_only_layers");
  expect_refused("qwen2_moe", {{"use_sliding_window", true}}, Code::kUnsupported,
                 "use_sliding_window");
}

TEST(Config, BothSpellingsMeanTheSame) {
  int pairs = 0;
  for (const auto& entry : fs::directory_iterator(kModels)) {
    if (!fs::exists(entry.path() / "config_v4.json")) continue;
    SCOPED_TRACE(entry.path().string());
    formats::ModelFiles files = fixture(entry.path().filename().string());
    const auto v5 = parse_config(files);
    files.config_json =
        *formats::read_text_file((entry.path() / "config_v4.json").string(), 1 << 20);
    const auto v4 = parse_config(files);
    ASSERT_TRUE(v5.ok() && v4.ok());
    EXPECT_EQ(*v4, *v5);
    EXPECT_EQ(canonical_text(*v4), canonical_text(*v5));
    ++pairs;
  }
  EXPECT_GE(pairs, 12);
  EXPECT_EQ(spec_of("llama-v4config"), spec_of("llama"));
}

TEST(Config, CanonicalTextShowsEveryDifference) {
  const ModelSpec base = spec_of("llama");
  EXPECT_EQ(canonical_text(base).substr(0, 30), "family=llama\nlayers=4\nhidden=6");
  ModelSpec other = base;
  other.rope.theta = 10000.000000000002;
  EXPECT_NE(canonical_text(other), canonical_text(base));
  other = base;
  other.rope.factors = {2.0};
  EXPECT_NE(canonical_text(other), canonical_text(base));
  other = base;
  other.stop_ids.push_back(318);
  EXPECT_NE(canonical_text(other), canonical_text(base));
  other = base;
  other.residual = tensor::DType::kBF16;
  EXPECT_NE(canonical_text(other), canonical_text(base));
  const ModelSpec experts = spec_of("qwen2_moe");
  const auto expect_change = [&](const auto& change) {
    ModelSpec changed = experts;
    change(changed.moe);
    EXPECT_NE(canonical_text(changed), canonical_text(experts));
  };
  expect_change([](MoeSpec& moe) { moe.experts = 7; });
  expect_change([](MoeSpec& moe) { moe.top_k = 3; });
  expect_change([](MoeSpec& moe) { moe.intermediate = 33; });
  expect_change([](MoeSpec& moe) { moe.shared_intermediate = 0; });
  expect_change([](MoeSpec& moe) { moe.normalise = true; });
  expect_change([](MoeSpec& moe) { moe.dense_layers = {0, 1}; });
}

TEST(Config, FallsBackToArchitectureAndDefaults) {
  EXPECT_EQ(*parse_with("llama", {{"model_type", nullptr}}), spec_of("llama"));
  const auto heads = parse_with("llama", {{"num_key_value_heads", nullptr}, {"head_dim", nullptr}});
  ASSERT_TRUE(heads.ok());
  EXPECT_EQ(heads->kv_heads, 4u);
  EXPECT_EQ(heads->head_dim, 16u);
  const auto plain = parse_with("llama", {{"rope_parameters", nullptr}, {"rms_norm_eps", nullptr}});
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->rope, (RopeSpec{.theta = 10000.0, .dims = 16}));
  EXPECT_EQ(plain->norm_eps, 1e-6f);
  EXPECT_EQ(parse_with("llama", {{"attention_bias", true}})->o_bias, true);
  EXPECT_EQ(parse_with("llama", {{"eos_token_id", {5, -1, 320, 99999999999}}})->stop_ids,
            (std::vector<TokenId>{5, 313, 316, 317}));
  const auto linear = parse_with("llama", {{"rope_parameters", nullptr},
                                           {"rope_theta", 5e5},
                                           {"rope_scaling", {{"type", "linear"}, {"factor", 2}}}});
  ASSERT_TRUE(linear.ok());
  const Json factors = {1, 1, 1.5, 2, 8, 8, 8, 8};
  const auto divided =
      parse_with("llama", {{"rope_parameters", nullptr},
                           {"rope_scaling", {{"rope_type", "factors"}, {"factors", factors}}}});
  ASSERT_TRUE(divided.ok()) << divided.error().message;
  EXPECT_EQ(divided->rope, (RopeSpec{.theta = 10000.0,
                                     .dims = 16,
                                     .scaling = RopeScaling::kFactors,
                                     .factors = {1, 1, 1.5, 2, 8, 8, 8, 8}}));
  EXPECT_EQ(linear->rope,
            (RopeSpec{.theta = 5e5, .dims = 16, .scaling = RopeScaling::kLinear, .factor = 2.0}));
}

TEST(Config, RefusesWhatItCannotRunByName) {
  expect_refused("llama", {{"model_type", "gemma2"}}, Code::kUnsupported,
                 "model_type \"gemma2\" is not supported; supported are llama, qwen2, qwen2_moe, "
                 "qwen3, qwen3_moe");
  expect_refused("llama", {{"model_type", nullptr}, {"architectures", {"X"}}}, Code::kUnsupported,
                 "architecture \"X\"");
  expect_refused("llama", {{"hidden_act", "gelu"}}, Code::kUnsupported, "hidden_act is \"gelu\"");
  expect_refused("llama", {{"mlp_bias", true}}, Code::kUnsupported, "mlp_bias");
  expect_refused("llama", {{"quantization_config", {{"bits", 4}}}}, Code::kUnsupported,
                 "quantization_config");
  expect_refused("qwen2", {{"use_sliding_window", true}}, Code::kUnsupported, "use_sliding_window");
  expect_refused("qwen3", {{"layer_types", {"sliding_attention"}}}, Code::kUnsupported,
                 "sliding_attention");
  expect_refused("llama", {{"rope_parameters", {{"rope_type", "longrope"}}}}, Code::kUnsupported,
                 "\"longrope\"");
  expect_refused("llama", {{"partial_rotary_factor", 0.5}}, Code::kUnsupported,
                 "partial_rotary_factor");
}

TEST(Config, RefusesImpossibleValues) {
  expect_refused("llama", {{"num_hidden_layers", 0}}, Code::kInvalidArgument,
                 "num_hidden_layers is 0");
  expect_refused("llama", {{"num_hidden_layers", 1e9}}, Code::kCorrupt, "num_hidden_layers");
  expect_refused("llama", {{"hidden_size", 18446744073709551615ull}}, Code::kInvalidArgument,
                 "hidden_size is 184467");
  expect_refused("llama", {{"vocab_size", -1}}, Code::kInvalidArgument, "vocab_size is -1");
  expect_refused("llama", {{"vocab_size", "320"}}, Code::kCorrupt,
                 "vocab_size is \"320\", it must be an integer");
  expect_refused("llama", {{"hidden_size", nullptr}}, Code::kCorrupt, "hidden_size is missing");
  expect_refused("llama", {{"num_key_value_heads", 3}}, Code::kInvalidArgument,
                 "no multiple of num_key_value_heads 3");
  expect_refused("llama", {{"head_dim", 15}}, Code::kInvalidArgument, "head_dim is 15");
  expect_refused("qwen2", {{"num_attention_heads", 64}}, Code::kInvalidArgument, "head_dim is 1");
  expect_refused("qwen2", {{"hidden_size", 66}}, Code::kInvalidArgument,
                 "no multiple of num_attention_heads");
  expect_refused("llama", {{"rms_norm_eps", 0}}, Code::kInvalidArgument, "rms_norm_eps is 0");
  const auto with_factors = [](const Json& list) {
    return Json{{"rope_parameters", {{"rope_type", "factors"}, {"factors", list}}}};
  };
  expect_refused("llama", with_factors({1, 1, 1, 1, 1, 1, 1}), Code::kInvalidArgument,
                 "factors has 7 numbers, heads of 16 need 8");
  expect_refused("llama", with_factors({1, 1, 1, 0, 1, 1, 1, 1}), Code::kInvalidArgument,
                 "factors holds 0");
  expect_refused("llama", with_factors({1, 1, 1, "x", 1, 1, 1, 1}), Code::kCorrupt, "factors");
  expect_refused("llama", with_factors(nullptr), Code::kInvalidArgument, "factors has 0 numbers");
  expect_refused("llama", {{"rope_parameters", 7}}, Code::kCorrupt, "rope_parameters");
  expect_refused("llama", {{"rope_parameters", {{"rope_type", "llama3"}}}}, Code::kCorrupt,
                 "rope_parameters: factor");
  expect_refused("qwen2", {{"rope_parameters", {{"rope_type", "yarn"}, {"factor", 0.5}}}},
                 Code::kInvalidArgument, "factor is 0.5");
  expect_refused("llama", {{"eos_token_id", "x"}}, Code::kCorrupt, "eos_token_id");
  std::vector<int> ids(100);
  for (int i = 0; i < 100; ++i) ids[static_cast<std::size_t>(i)] = i;
  expect_refused("llama", {{"eos_token_id", ids}}, Code::kInvalidArgument, "103 ids, at most 64");
}

TEST(Config, RefusesTextThatIsNoObject) {
  formats::ModelFiles files = fixture("llama");
  for (const char* text : {"", "{", "[]", "null", "\xff"}) {
    files.config_json = text;
    EXPECT_EQ(parse_config(files).error().code, Code::kCorrupt) << text;
  }
  files = fixture("llama");
  files.generation_config_json = "[";
  EXPECT_NE(parse_config(files).error().message.find("generation_config.json"), std::string::npos);
}

TEST(Registry, IsSortedAndAgreesWithItsArchitectures) {
  std::string_view last;
  for (const Family& family : families()) {
    EXPECT_LT(last, family.model_type);
    last = family.model_type;
    const auto files = make_random_model({.family = std::string(family.model_type)});
    ASSERT_TRUE(files.ok()) << files.error().message;
    EXPECT_EQ(parse_config(*files)->family, family.model_type);
    EXPECT_NE(files->config_json.find(family.architecture), std::string::npos);
  }
}

}  // namespace
}  // namespace mesh::model
