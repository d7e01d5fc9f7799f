#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "base/hash.h"
#include "base/random.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/fake_backend.h"
#include "model/fingerprint.h"
#include "model/random_model.h"
#include "model/rope.h"
#include "model/weights.h"

namespace mesh::model {
namespace {

namespace fs = std::filesystem;

const std::string kModels = MESH_TEST_DATA "/models/";

formats::ModelFiles fixture(const std::string& name) {
  return std::move(formats::open_model(kModels + name, {})).value();
}

// --- rope ---------------------------------------------------------------------------------------

void expect_frequency(const ops::RopeTable& table, std::size_t i, double expected) {
  EXPECT_NEAR(table.inv_freq[i], expected, expected * 5e-7) << i;
}

TEST(Rope, PlainFrequenciesArePowersOfTheta) {
  const ops::RopeTable table = rope_table({.theta = 1e6, .dims = 128});
  ASSERT_EQ(table.inv_freq.size(), 64u);
  EXPECT_EQ(table.factor, 1.0);
  for (std::size_t i = 0; i < 64; ++i)
    EXPECT_NEAR(table.inv_freq[i], std::pow(1e6, -static_cast<double>(i) / 64.0),
                table.inv_freq[i] * 1e-15);
  const ops::RopeTable linear =
      rope_table({.theta = 1e6, .dims = 128, .scaling = RopeScaling::kLinear, .factor = 4.0});
  EXPECT_EQ(linear.inv_freq[9], table.inv_freq[9] / 4.0);
  RopeSpec divided{.theta = 1e6, .dims = 4, .scaling = RopeScaling::kFactors, .factors = {1.5, 8}};
  const ops::RopeTable small = rope_table({.theta = 1e6, .dims = 4});
  EXPECT_EQ(rope_table(divided).inv_freq,
            (std::vector<double>{small.inv_freq[0] / 1.5, small.inv_freq[1] / 8}));
}

TEST(Rope, Llama3ChangesFrom29AndScalesFullyFrom35) {
  const ops::RopeTable plain = rope_table({.theta = 5e5, .dims = 128});
  const ops::RopeTable table = rope_table({.theta = 5e5,
                                           .dims = 128,
                                           .scaling = RopeScaling::kLlama3,
                                           .factor = 8.0,
                                           .original_context = 8192});
  for (std::size_t i = 0; i < 29; ++i) EXPECT_EQ(table.inv_freq[i], plain.inv_freq[i]) << i;
  for (std::size_t i = 29; i < 35; ++i) {
    EXPECT_LT(table.inv_freq[i], plain.inv_freq[i]) << i;
    EXPECT_GT(table.inv_freq[i], plain.inv_freq[i] / 8.0) << i;
  }
  for (std::size_t i = 35; i < 64; ++i) EXPECT_EQ(table.inv_freq[i], plain.inv_freq[i] / 8.0) << i;
}

TEST(Rope, YarnGivesThePublishedModelsValues) {
  RopeSpec deepseek{.theta = 10000.0,
                    .dims = 64,
                    .scaling = RopeScaling::kYarn,
                    .factor = 40.0,
                    .original_context = 4096};
  deepseek.mscale = deepseek.mscale_all_dim = 1.0;
  ops::RopeTable table = rope_table(deepseek);
  EXPECT_EQ(table.factor, 1.0);
  expect_frequency(table, 9, 7.498942e-2);
  expect_frequency(table, 16, 5.5e-3);
  RopeSpec kimi{.theta = 50000.0,
                .dims = 64,
                .scaling = RopeScaling::kYarn,
                .factor = 64.0,
                .original_context = 4096};
  kimi.beta_fast = kimi.mscale = kimi.mscale_all_dim = 1.0;
  table = rope_table(kimi);
  EXPECT_EQ(table.factor, 1.0);
  expect_frequency(table, 16, 4.472136e-3);
  expect_frequency(table, 20, 1.807023e-5);
  RopeSpec oss{.theta = 150000.0,
               .dims = 64,
               .scaling = RopeScaling::kYarn,
               .factor = 32.0,
               .original_context = 4096};
  oss.truncate = false;
  table = rope_table(oss);
  EXPECT_NEAR(table.factor, 1.346574, 5e-7);
  expect_frequency(table, 9, 3.170570e-2);
  expect_frequency(table, 16, 4.564839e-4);
  oss.attention_factor = 1.25;
  EXPECT_EQ(rope_table(oss).factor, 1.25);
}

// --- random models ------------------------------------------------------------------------------

RandomModelOptions tiny(const std::string& family, std::uint64_t seed, tensor::DType dtype) {
  RandomModelOptions options;
  options.family = family;
  options.seed = seed;
  options.dtype = dtype;
  options.tied = family == "llama" || family == "qwen2";
  options.head_dim = family.starts_with("qwen3") ? 32 : 16;
  if (family == "qwen2_moe") {
    options.sparse_step = 2;
    options.mlp_only_layers = {1};
  }
  return options;
}

// The seeds are those with which the fixtures were accepted.
TEST(RandomModel, GivesTheWeightsOfTheFixtures) {
  struct Case {
    const char* fixture;
    const char* family;
    std::uint64_t seed;
    tensor::DType dtype;
  };
  for (const Case& c : {Case{"llama", "llama", 2, tensor::DType::kF32},
                        Case{"llama-bf16", "llama", 2, tensor::DType::kBF16},
                        Case{"qwen2", "qwen2", 4, tensor::DType::kF32},
                        Case{"qwen3", "qwen3", 12, tensor::DType::kF32},
                        Case{"qwen3-bf16", "qwen3", 12, tensor::DType::kBF16},
                        Case{"qwen2_moe", "qwen2_moe", 29, tensor::DType::kF32},
                        Case{"qwen3_moe-bf16", "qwen3_moe", 58, tensor::DType::kBF16}}) {
    SCOPED_TRACE(c.fixture);
    const formats::ModelFiles expected = fixture(c.fixture);
    const auto random = make_random_model(tiny(c.family, c.seed, c.dtype));
    ASSERT_TRUE(random.ok()) << random.error().message;
    ASSERT_EQ(random->tensors->tensors().size(), expected.tensors->tensors().size());
    for (const tensor::TensorInfo& info : expected.tensors->tensors()) {
      const auto a = expected.tensors->read(info.name);
      const auto b = random->tensors->read(info.name);
      ASSERT_TRUE(a.ok() && b.ok()) << info.name;
      ASSERT_EQ(b->info.shape, a->info.shape) << info.name;
      ASSERT_EQ(std::memcmp(a->bytes.data(), b->bytes.data(), a->bytes.size()), 0) << info.name;
    }
  }
}

TEST(RandomModel, PartsEqualTheWhole) {
  constexpr std::uint64_t kSeed = 3;
  SCOPED_TRACE(fmt::format("seed {}", kSeed));
  Prng random(kSeed);
  for (const tensor::DType dtype : {tensor::DType::kF32, tensor::DType::kBF16}) {
    const auto files = make_random_model(tiny("llama", 7, dtype));
    const std::string name = "model.layers.1.mlp.up_proj.weight";
    const auto whole = files->tensors->read(name);
    for (int round = 0; round < 200; ++round) {
      const std::size_t offset = random.below(whole->bytes.size());
      std::vector<std::byte> part(
          random.below(std::min<std::size_t>(whole->bytes.size() - offset, 40) + 1));
      ASSERT_TRUE(files->tensors->read_part(name, offset, part).ok());
      ASSERT_TRUE(std::equal(part.begin(), part.end(),
                             whole->bytes.begin() + static_cast<std::ptrdiff_t>(offset)));
    }
  }
}

TEST(RandomModel, ShapesOfAnySizeCostNothing) {
  const auto files = make_random_model({.family = "qwen3",
                                        .layers = 80,
                                        .hidden = 8192,
                                        .intermediate = 29568,
                                        .heads = 64,
                                        .kv_heads = 8,
                                        .head_dim = 128,
                                        .vocabulary = 152064,
                                        .tokenizer = true});
  ASSERT_TRUE(files.ok()) << files.error().message;
  const auto spec = parse_config(*files);
  ASSERT_TRUE(spec.ok()) << spec.error().message;
  EXPECT_EQ(spec->stop_ids, (std::vector<TokenId>{kEndOfTextId, kTurnEndId}));
  EXPECT_GT(embedding_bytes(*spec, *files->tensors), 2u << 30);
  std::array<std::byte, 8> spot{};
  EXPECT_TRUE(files->tensors->read_part(kEmbeddingTensor, 2ull << 30, spot).ok());
  EXPECT_EQ(files->tensors->bytes_read(), 8u);
}

TEST(RandomModel, RefusesWhatCannotBe) {
  EXPECT_EQ(make_random_model({.family = "gemma"}).error().code, Code::kUnsupported);
  EXPECT_EQ(make_random_model({.family = ""}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(make_random_model({.layers = 0}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(make_random_model({.dtype = tensor::DType::kF16}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(make_random_model({.vocabulary = 258, .tokenizer = true}).error().code,
            Code::kInvalidArgument);
}

struct Scratch {
  fs::path path = fs::temp_directory_path() / fmt::format("mesh-model-{}", ::getpid());
  ~Scratch() { fs::remove_all(path); }
};

TEST(RandomModel, SavedFilesOpenAsTheSameModel) {
  const Scratch scratch;
  RandomModelOptions options = tiny("qwen2", 5, tensor::DType::kBF16);
  options.tokenizer = true;
  const auto files = make_random_model(options);
  ASSERT_TRUE(files.ok()) << files.error().message;
  const auto written = write_model(scratch.path.string(), *files);
  ASSERT_TRUE(written.ok()) << written.error().message;
  const auto opened = formats::open_model(scratch.path.string(), {});
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened->tokenizer_json, files->tokenizer_json);
  EXPECT_EQ(opened->chat_template, files->chat_template);
  const auto spec = parse_config(*files);
  ASSERT_EQ(*parse_config(*opened), *spec);
  EXPECT_EQ(fingerprint(*spec, *opened->tensors)->value,
            fingerprint(*spec, *files->tensors)->value);
}

// --- fingerprint --------------------------------------------------------------------------------

// A model with one byte of one tensor changed.
class Altered final : public formats::TensorSource {
 public:
  Altered(const formats::TensorSource& source, std::string name, std::uint64_t at)
      : source_(source), name_(std::move(name)), at_(at) {}
  const std::vector<tensor::TensorInfo>& tensors() const override { return source_.tensors(); }
  std::uint64_t bytes_read() const override { return source_.bytes_read(); }
  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    MESH_RETURN_IF_ERROR(source_.read_part(name, offset, out));
    if (name == name_ && at_ >= offset && at_ < offset + out.size())
      out[static_cast<std::size_t>(at_ - offset)] ^= std::byte{1};
    return {};
  }

 private:
  const formats::TensorSource& source_;
  const std::string name_;
  const std::uint64_t at_;
};

Fingerprint fingerprint_of(const formats::ModelFiles& files) {
  const auto value = fingerprint(*parse_config(files), *files.tensors);
  EXPECT_TRUE(value.ok()) << value.error().message;
  return *value;
}

TEST(Fingerprint, DependsOnTheModelAndNotOnItsFiles) {
  EXPECT_EQ(fingerprint_of(fixture("qwen3")), fingerprint_of(fixture("qwen3-sharded")));
  EXPECT_EQ(fingerprint_of(fixture("llama")), fingerprint_of(fixture("llama-v4config")));
  std::map<std::uint64_t, std::string> seen;
  for (const char* name :
       {"llama", "llama-bf16", "llama-untied", "qwen2", "qwen2-bf16", "qwen2-yarn", "qwen3",
        "qwen3-bf16", "qwen2_moe", "qwen2_moe-bf16", "qwen3_moe", "qwen3_moe-bf16"})
    EXPECT_TRUE(seen.emplace(fingerprint_of(fixture(name)).value, name).second) << name;
  EXPECT_EQ(fingerprint_of(fixture("llama")).text().size(), 16u);
}

TEST(Fingerprint, SeesAChangedSpotAndReadsLittle) {
  const auto files = make_random_model(
      {.layers = 2, .hidden = 512, .intermediate = 1024, .heads = 8, .head_dim = 64});
  ASSERT_TRUE(files.ok());
  const ModelSpec spec = *parse_config(*files);
  const Fingerprint base = *fingerprint(spec, *files->tensors);
  EXPECT_LE(files->tensors->bytes_read(), files->tensors->tensors().size() * 16384);
  for (const char* name :
       {"model.layers.1.mlp.down_proj.weight", "model.norm.weight", kEmbeddingTensor}) {
    const std::uint64_t bytes = files->tensors->find(name)->bytes();
    for (const std::uint32_t spot : {0u, 1u, 31u, 62u, 63u}) {
      const Altered altered(*files->tensors, name, spot_offset(bytes, spot) + 3);
      EXPECT_NE(fingerprint(spec, altered)->value, base.value) << name << " " << spot;
    }
  }
  const std::uint64_t between =
      spot_offset(files->tensors->find(kEmbeddingTensor)->bytes(), 1) + kSpotBytes;
  EXPECT_EQ(fingerprint(spec, Altered(*files->tensors, kEmbeddingTensor, between))->value,
            base.value);
}

TEST(Fingerprint, SpotsAreOrderedWithinTheTensor) {
  for (const std::uint64_t bytes :
       {1ull, 8ull, 9ull, 63ull, 64ull, 100ull, 1000ull, 123457ull, 1ull << 40}) {
    std::uint64_t last = 0;
    for (std::uint32_t i = 0; i < kSpotsPerTensor; ++i) {
      const std::uint64_t offset = spot_offset(bytes, i);
      EXPECT_GE(offset, last);
      EXPECT_LE(offset, bytes - std::min(bytes, kSpotBytes));
      last = offset;
    }
    EXPECT_EQ(last, bytes - std::min(bytes, kSpotBytes));
  }
}

TEST(Fingerprint, ReadsFewerSpotsWhereTensorsAreMany) {
  EXPECT_EQ(spots_per_tensor(0), kSpotsPerTensor);
  EXPECT_EQ(spots_per_tensor(2048), kSpotsPerTensor);
  EXPECT_EQ(spots_per_tensor(2049), kSpotsPerTensor - 1);
  EXPECT_EQ(spots_per_tensor(std::size_t{48} * 128 * 3), 7u);
  EXPECT_EQ(spots_per_tensor(1u << 20), kSpotsPerSmallTensor);
}

// Changing this value changes which nodes may link: raise the wire version when it is meant.
TEST(Fingerprint, IsStable) {
  EXPECT_EQ(fingerprint_of(formats::open_builtin_model()).text(), "c71fe4e9c95c6b14");
}

// --- loading ------------------------------------------------------------------------------------

TEST(LoadStage, ReadsOnlyItsLayers) {
  for (const char* name :
       {"llama", "llama-untied", "qwen2-bf16", "qwen3-sharded", "qwen2_moe", "qwen3_moe-bf16"}) {
    const ModelSpec spec = *parse_config(fixture(name));
    for (const LayerRange range :
         {LayerRange{0, 4}, LayerRange{0, 1}, LayerRange{1, 3}, LayerRange{3, 4}}) {
      SCOPED_TRACE(fmt::format("{} {}", name, range.to_string()));
      const formats::ModelFiles files = fixture(name);
      fake::Backend backend;
      const auto stage = load_stage(spec, *files.tensors, backend, range);
      ASSERT_TRUE(stage.ok()) << stage.error().message;
      const bool is_first = range.begin == 0;
      const bool is_last = range.end == 4;
      EXPECT_EQ(stage->range, range);
      EXPECT_EQ(stage->layers.size(), range.size());
      EXPECT_EQ(stage->embedding != nullptr, is_first || (is_last && spec.tied));
      EXPECT_EQ(stage->final_norm != nullptr, is_last);
      EXPECT_EQ(stage->head != nullptr, is_last && !spec.tied);
      std::uint64_t expected = 0;
      for (std::uint32_t i = range.begin; i < range.end; ++i)
        expected += layer_bytes(spec, *files.tensors, i);
      if (is_first) expected += embedding_bytes(spec, *files.tensors);
      if (is_last) expected += head_bytes(spec, *files.tensors);
      if (is_first && is_last && spec.tied) expected -= embedding_bytes(spec, *files.tensors);
      EXPECT_EQ(stage->source_bytes, expected);
      EXPECT_EQ(files.tensors->bytes_read(), expected);
    }
  }
}

TEST(LoadStage, FusesInTheOrderOfTheOperators) {
  const formats::ModelFiles files = fixture("qwen2");
  fake::Backend backend;
  const auto stage = load_stage(*parse_config(files), *files.tensors, backend, {2, 3});
  ASSERT_TRUE(stage.ok());
  const LayerWeights& layer = *stage->layers[0];
  const auto& qkv = dynamic_cast<const fake::Linear&>(*layer.qkv);
  EXPECT_EQ(qkv.names, (std::vector<std::string>{"model.layers.2.self_attn.q_proj.weight",
                                                 "model.layers.2.self_attn.k_proj.weight",
                                                 "model.layers.2.self_attn.v_proj.weight"}));
  EXPECT_TRUE(qkv.has_bias);
  const auto& gate_up = dynamic_cast<const fake::Linear&>(*layer.gate_up);
  EXPECT_EQ(gate_up.names, (std::vector<std::string>{"model.layers.2.mlp.gate_proj.weight",
                                                     "model.layers.2.mlp.up_proj.weight"}));
  EXPECT_FALSE(dynamic_cast<const fake::Linear&>(*layer.o).has_bias);
  EXPECT_EQ(layer.q_norm, nullptr);
}

TEST(LoadStage, HashesLayersAlikeWhereverTheyAreHeld) {
  const ModelSpec spec = *parse_config(fixture("qwen3"));
  fake::Backend backend;
  const auto whole = load_stage(spec, *fixture("qwen3").tensors, backend, {0, 4});
  const auto part = load_stage(spec, *fixture("qwen3-sharded").tensors, backend, {1, 3});
  ASSERT_TRUE(whole.ok() && part.ok());
  const std::vector<std::uint64_t> hashes = whole->layer_hashes();
  EXPECT_EQ(part->layer_hashes(), (std::vector<std::uint64_t>{hashes[1], hashes[2]}));
  EXPECT_NE(hashes[1], hashes[2]);
  const formats::ModelFiles files = fixture("qwen3");
  // A weight between the spots of the fingerprint is still found.
  const Altered altered(*files.tensors, "model.layers.2.mlp.up_proj.weight", 12345);
  const auto other = load_stage(spec, altered, backend, {0, 4});
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->layer_hashes()[1], hashes[1]);
  EXPECT_NE(other->layer_hashes()[2], hashes[2]);
  Hasher hasher;
  for (const TensorRole& role : layer_roles(spec, 1).all())
    hasher.update(files.tensors->read(role.name)->bytes);
  EXPECT_EQ(hasher.digest(), hashes[1]);
}

TEST(LoadStage, SharesWhatIsHeldAlready) {
  const formats::ModelFiles files = fixture("llama-untied");
  const ModelSpec spec = *parse_config(files);
  fake::Backend backend;
  const auto old = load_stage(spec, *files.tensors, backend, {0, 3});
  ASSERT_TRUE(old.ok());
  const std::uint64_t before = files.tensors->bytes_read();
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  LoadOptions options;
  options.reuse = &*old;
  options.progress = [&](std::uint64_t d, std::uint64_t t) {
    EXPECT_GT(d, done);
    done = d;
    total = t;
  };
  const auto grown = load_stage(spec, *files.tensors, backend, {1, 4}, options);
  ASSERT_TRUE(grown.ok());
  EXPECT_EQ(grown->layers[0], old->layers[1]);
  EXPECT_EQ(grown->layers[1], old->layers[2]);
  EXPECT_EQ(grown->embedding, nullptr);
  const std::uint64_t read =
      layer_bytes(spec, *files.tensors, 3) + head_bytes(spec, *files.tensors);
  EXPECT_EQ(files.tensors->bytes_read() - before, read);
  EXPECT_EQ(done, read);
  EXPECT_EQ(total, read);
  EXPECT_EQ(grown->source_bytes, read + 2 * layer_bytes(spec, *files.tensors, 1));
  EXPECT_GT(grown->device_bytes(), 0u);
}

TEST(LoadStage, StopsWhenCancelled) {
  const formats::ModelFiles files = fixture("llama");
  fake::Backend backend;
  LoadOptions options;
  int asked = 0;
  options.cancelled = [&] { return ++asked > 2; };
  const auto stage = load_stage(*parse_config(files), *files.tensors, backend, {0, 4}, options);
  ASSERT_FALSE(stage.ok());
  EXPECT_EQ(stage.error().code, Code::kCancelled);
  EXPECT_LT(files.tensors->bytes_read(), 250'000u);
}

TEST(LoadStage, NamesWhatDoesNotFit) {
  const formats::ModelFiles files = fixture("llama");
  ModelSpec spec = *parse_config(files);
  fake::Backend backend;
  const auto failure = [&](const ModelSpec& s, LayerRange range) {
    const auto stage = load_stage(s, *files.tensors, backend, range);
    EXPECT_FALSE(stage.ok());
    return stage.ok() ? std::string() : stage.error().message;
  };
  EXPECT_EQ(failure(spec, {2, 2}), "layers 2:2 of a model with 4 layers");
  EXPECT_EQ(failure(spec, {2, 5}), "layers 2:5 of a model with 4 layers");
  ModelSpec wide = spec;
  wide.intermediate = 256;
  EXPECT_EQ(failure(wide, {1, 2}),
            "tensor model.layers.1.mlp.gate_proj.weight is [128, 64], the configuration expects "
            "[256, 64]");
  ModelSpec biased = spec;
  biased.qkv_bias = true;
  EXPECT_EQ(failure(biased, {0, 1}),
            "the checkpoint has no tensor model.layers.0.self_attn.q_proj.bias (expected [64])");
  ModelSpec untied = spec;
  untied.tied = false;
  EXPECT_EQ(failure(untied, {3, 4}),
            "the checkpoint has no tensor lm_head.weight (expected [320, 64])");
  EXPECT_EQ(files.tensors->bytes_read(), 0u);
  EXPECT_EQ(backend.linears, 0);
}

// --- decoder ------------------------------------------------------------------------------------

TEST(Decoder, RunsTheOperatorsInOrder) {
  const formats::ModelFiles files = fixture("qwen3");
  const ModelSpec spec = *parse_config(files);
  const ops::RopeTable rope = rope_table(spec.rope);
  const Decoder decoder(spec, rope);
  fake::Backend backend;
  const auto stage = load_stage(spec, *files.tensors, backend, {3, 4});
  ASSERT_TRUE(stage.ok());
  const std::vector<std::int32_t> positions = {0, 1, 2};
  ops::Batch batch;
  batch.positions = positions;
  batch.hidden = spec.hidden;
  const auto step = backend.begin_step(nullptr, batch);
  std::vector<std::uint32_t> boundaries;
  const ops::Tensor h = decoder.run_layers(
      *step, *stage, {3, 4},
      [&](std::uint32_t layer, ops::Step&, const ops::Tensor&) { boundaries.push_back(layer); });
  const std::vector<std::int32_t> rows = {2};
  const ops::Tensor logits = decoder.logits(*step, *stage, h, rows);
  EXPECT_EQ(logits.cols, 320);
  EXPECT_EQ(boundaries, (std::vector<std::uint32_t>{3, 4}));
  const std::vector<std::string> expected = {"residual_in 3x64",
                                             "rms_norm input_layernorm 3x64",
                                             "linear q_proj 3x256",
                                             "attention0n 3x128",
                                             "linear o_proj 3x64",
                                             "add 3x64",
                                             "rms_norm post_attention_layernorm 3x64",
                                             "linear gate_proj 3x256",
                                             "swiglu 3x128",
                                             "linear down_proj 3x64",
                                             "add 3x64",
                                             "take 1x64",
                                             "rms_norm norm 1x64",
                                             "linear lm_head 1x320"};
  EXPECT_EQ(backend.log, expected);
}

}  // namespace
}  // namespace mesh::model
