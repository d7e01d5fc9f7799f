// Layers with experts: which tensors they are, how they are loaded, and which operators run.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/hash.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/fake_backend.h"
#include "model/fingerprint.h"
#include "model/random_model.h"
#include "model/restacked.h"
#include "model/rope.h"
#include "model/weights.h"

namespace mesh::model {
namespace {

formats::ModelFiles fixture(const std::string& name) {
  return std::move(formats::open_model(MESH_TEST_DATA "/models/" + name, {})).value();
}

TEST(MoeRoles, NameTheTensorsOfTheFixtures) {
  for (const char* name : {"qwen2_moe", "qwen3_moe-bf16"}) {
    const formats::ModelFiles files = fixture(name);
    const ModelSpec spec = *parse_config(files);
    std::vector<std::string> wanted, found;
    for (const TensorRole& role : model_roles(spec, {0, spec.layers}).all())
      wanted.push_back(role.name);
    for (const tensor::TensorInfo& info : files.tensors->tensors()) found.push_back(info.name);
    std::sort(wanted.begin(), wanted.end());
    EXPECT_EQ(wanted, found);
  }
}

TEST(MoeRoles, FollowTheLayoutOfTheSource) {
  const formats::ModelFiles files = fixture("qwen2_moe");
  const ModelSpec spec = *parse_config(files);
  const std::string prefix = "model.layers.3.mlp.";
  const auto separate = layer_roles(spec, 3, files.tensors.get());
  ASSERT_TRUE(separate.moe);
  EXPECT_EQ(separate.moe->experts.size(), 24u);
  EXPECT_EQ(separate.moe->experts[4].name, prefix + "experts.1.up_proj.weight");
  const RestackedSource stacked(spec, *files.tensors, ExpertLayout::kStacked, true);
  const auto gguf = layer_roles(spec, 3, &stacked);
  EXPECT_EQ(gguf.moe->layout, ExpertLayout::kStacked);
  EXPECT_EQ(gguf.moe->experts[2].name, prefix + "experts.down_proj.weight");
  EXPECT_EQ(gguf.moe->experts[2].shape, (tensor::Shape{8, 64, 32}));
  EXPECT_EQ(gguf.moe->shared_gate->shape, (tensor::Shape{64}));
  const RestackedSource fused(spec, *files.tensors, ExpertLayout::kFused);
  const auto runtime = layer_roles(spec, 3, &fused);
  EXPECT_EQ(runtime.moe->layout, ExpertLayout::kFused);
  EXPECT_EQ(runtime.moe->experts[0].name, prefix + "experts.gate_up_proj");
  EXPECT_EQ(runtime.moe->experts[0].shape, (tensor::Shape{8, 64, 64}));
  for (const RestackedSource* source : {&stacked, &fused}) {
    EXPECT_TRUE(tensor_table(spec, *source, {0, 4}).ok());
    EXPECT_EQ(layer_bytes(spec, *source, 3), layer_bytes(spec, *files.tensors, 3));
    EXPECT_EQ(stage_bytes(spec, *source, {1, 4}), stage_bytes(spec, *files.tensors, {1, 4}));
  }
  EXPECT_FALSE(layer_roles(spec, 2, &stacked).moe);
}

TEST(MoeLoad, HandsOverEachExpertInOrder) {
  const formats::ModelFiles files = fixture("qwen2_moe");
  const ModelSpec spec = *parse_config(files);
  fake::Backend backend;
  const auto stage = load_stage(spec, *files.tensors, backend, {2, 4});
  ASSERT_TRUE(stage.ok()) << stage.error().message;
  EXPECT_EQ(stage->layers[0]->experts, nullptr);
  EXPECT_EQ(stage->layers[0]->router, nullptr);
  const LayerWeights& layer = *stage->layers[1];
  const auto& experts = dynamic_cast<const fake::Experts&>(*layer.experts);
  ASSERT_EQ(experts.names.size(), 24u);
  EXPECT_EQ(experts.names[0], "model.layers.3.mlp.experts.0.gate_proj.weight");
  EXPECT_EQ(experts.names[23], "model.layers.3.mlp.experts.7.down_proj.weight");
  EXPECT_EQ(experts.intermediate(), 32);
  EXPECT_EQ(layer.router->out(), 8);
  EXPECT_EQ(layer.shared_gate->out(), 1);
  EXPECT_EQ(dynamic_cast<const fake::Linear&>(*layer.gate_up).names[1],
            "model.layers.3.mlp.shared_expert.up_proj.weight");
  EXPECT_GT(layer.device_bytes(), experts.bytes());
  EXPECT_EQ(layer.source_bytes, layer_bytes(spec, *files.tensors, 3));
}

TEST(MoeLoad, HashIsTheSameInEveryLayout) {
  for (const char* name : {"qwen2_moe-bf16", "qwen3_moe"}) {
    const formats::ModelFiles files = fixture(name);
    const ModelSpec spec = *parse_config(files);
    fake::Backend backend;
    const auto separate = load_stage(spec, *files.tensors, backend, {0, 4});
    ASSERT_TRUE(separate.ok());
    Hasher hasher;
    for (const TensorRole& role : layer_roles(spec, 3).all())
      hasher.update(files.tensors->read(role.name)->bytes);
    EXPECT_EQ(separate->layer_hashes()[3], hasher.digest());
    for (const ExpertLayout layout : {ExpertLayout::kStacked, ExpertLayout::kFused}) {
      const RestackedSource source(spec, *files.tensors, layout, true);
      const auto stage = load_stage(spec, source, backend, {0, 4});
      ASSERT_TRUE(stage.ok()) << stage.error().message;
      EXPECT_EQ(stage->layer_hashes(), separate->layer_hashes());
      EXPECT_EQ(stage->source_bytes, separate->source_bytes);
      EXPECT_EQ(source.bytes_read(), separate->source_bytes);
    }
  }
}

TEST(MoeLoad, TakesQuantisedExpertsApart) {
  const formats::ModelFiles files = fixture("qwen3_moe-bf16");
  const ModelSpec spec = *parse_config(files);
  fake::Backend backend;
  std::vector<std::uint64_t> hashes;
  for (const ExpertLayout layout :
       {ExpertLayout::kSeparate, ExpertLayout::kStacked, ExpertLayout::kFused}) {
    const RestackedSource source(spec, *files.tensors, layout, false, true);
    const auto stage = load_stage(spec, source, backend, {0, 4});
    ASSERT_TRUE(stage.ok()) << stage.error().message;
    if (hashes.empty()) hashes = stage->layer_hashes();
    EXPECT_EQ(stage->layer_hashes(), hashes);
    EXPECT_LT(stage->source_bytes, stage_bytes(spec, *files.tensors, {0, 4}));
  }
  const auto plain = load_stage(spec, *files.tensors, backend, {0, 4});
  EXPECT_NE(plain->layer_hashes(), hashes);
}

TEST(MoeLoad, ReportsAndStopsBetweenExperts) {
  const formats::ModelFiles files = fixture("qwen3_moe");
  const ModelSpec spec = *parse_config(files);
  fake::Backend backend;
  LoadOptions options;
  std::vector<std::uint64_t> done;
  options.progress = [&](std::uint64_t d, std::uint64_t total) {
    EXPECT_TRUE(done.empty() || d > done.back());
    EXPECT_LE(d, total);
    done.push_back(d);
  };
  const auto stage = load_stage(spec, *files.tensors, backend, {1, 2}, options);
  ASSERT_TRUE(stage.ok());
  EXPECT_EQ(done.size(), 8u);  // behind seven of eight experts and the layer
  EXPECT_EQ(done.back(), layer_bytes(spec, *files.tensors, 1));
  int asked = 0;
  options.cancelled = [&] { return ++asked > 3; };
  const std::uint64_t before = files.tensors->bytes_read();
  done.clear();
  const auto stopped = load_stage(spec, *files.tensors, backend, {1, 2}, options);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, Code::kCancelled);
  EXPECT_LT(files.tensors->bytes_read() - before, layer_bytes(spec, *files.tensors, 1) * 3 / 4);
}

TEST(MoeLoad, SharesLayersThatAreHeld) {
  const formats::ModelFiles files = fixture("qwen3_moe");
  const ModelSpec spec = *parse_config(files);
  fake::Backend backend;
  const auto old = load_stage(spec, *files.tensors, backend, {0, 3});
  ASSERT_TRUE(old.ok());
  const std::uint64_t before = files.tensors->bytes_read();
  LoadOptions options;
  options.reuse = &*old;
  const auto moved = load_stage(spec, *files.tensors, backend, {1, 4}, options);
  ASSERT_TRUE(moved.ok());
  EXPECT_EQ(moved->layers[1], old->layers[2]);
  EXPECT_EQ(files.tensors->bytes_read() - before,
            layer_bytes(spec, *files.tensors, 3) + head_bytes(spec, *files.tensors));
}

TEST(MoeLoad, NamesWhatDoesNotFit) {
  const formats::ModelFiles files = fixture("qwen3_moe");
  const ModelSpec spec = *parse_config(files);
  fake::Backend backend;
  const auto failure = [&](const ModelSpec& wrong, const formats::TensorSource& source) {
    const auto stage = load_stage(wrong, source, backend, {1, 2});
    EXPECT_FALSE(stage.ok());
    return stage.ok() ? std::string() : stage.error().message;
  };
  ModelSpec wrong = spec;
  wrong.moe.experts = 9;
  EXPECT_EQ(failure(wrong, *files.tensors),
            "tensor model.layers.1.mlp.gate.weight is [8, 64], the configuration expects [9, 64]");
  wrong = spec;
  wrong.moe.intermediate = 16;
  EXPECT_EQ(failure(wrong, RestackedSource(spec, *files.tensors, ExpertLayout::kStacked)),
            "tensor model.layers.1.mlp.experts.gate_proj.weight is [8, 32, 64], the configuration "
            "expects [8, 16, 64]");
  wrong = spec;
  wrong.moe.shared_intermediate = 96;
  EXPECT_EQ(failure(wrong, *files.tensors),
            "the checkpoint has no tensor model.layers.1.mlp.shared_expert.gate_proj.weight "
            "(expected [96, 64])");
}

TEST(MoeFingerprint, CoversEveryExpert) {
  const auto options = [](std::uint32_t experts) {
    return RandomModelOptions{.family = "qwen3_moe", .experts = experts};
  };
  const auto value = [](const formats::ModelFiles& files) {
    return fingerprint(*parse_config(files), *files.tensors).value().value;
  };
  const formats::ModelFiles files = *make_random_model(options(8));
  EXPECT_NE(value(files), value(*make_random_model(options(7))));
  const ModelSpec spec = *parse_config(files);
  RestackedSource stacked(spec, *files.tensors, ExpertLayout::kStacked);
  EXPECT_TRUE(fingerprint(spec, stacked).ok());
  // 300 tensors and more, a few spots of each.
  EXPECT_GT(files.tensors->bytes_read(), files.tensors->tensors().size() * 512 - 1);
}

TEST(MoeDecoder, RunsTheOperatorsInOrder) {
  const formats::ModelFiles files = fixture("qwen2_moe");
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
  decoder.run_layers(*step, *stage, {3, 4});
  const std::vector<std::string> expected = {"residual_in 3x64",
                                             "rms_norm input_layernorm 3x64",
                                             "linear q_proj 3x128",
                                             "attention0 3x64",
                                             "linear o_proj 3x64",
                                             "add 3x64",
                                             "rms_norm post_attention_layernorm 3x64",
                                             "linear gate 3x8",
                                             "experts 2 of 8 3x64",
                                             "linear gate_proj 3x192",
                                             "swiglu 3x96",
                                             "linear down_proj 3x64",
                                             "linear shared_expert_gate 3x1",
                                             "add_gated 3x64",
                                             "add 3x64"};
  EXPECT_EQ(backend.log, expected);
}

}  // namespace
}  // namespace mesh::model
