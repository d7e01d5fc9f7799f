// The decoder on the reference backend against values of transformers, and against itself when cut
// into stages.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "backends/ref/ref_backend.h"
#include "formats/byte_source.h"
#include "formats/model_files.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "model/decoder.h"
#include "model/restacked.h"
#include "model/rope.h"
#include "model/weights.h"
#include "tensor/dtype.h"

namespace mesh::model {
namespace {

const std::string kModels = MESH_TEST_DATA "/models/";

std::vector<float> floats(std::span<const std::byte> bytes, tensor::DType dtype) {
  std::vector<float> values(bytes.size() / tensor::dtype_bytes(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == tensor::DType::kF32) {
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
    } else {
      std::uint16_t half = 0;
      std::memcpy(&half, bytes.data() + 2 * i, 2);
      values[i] = tensor::bf16_to_f32(half);
    }
  }
  return values;
}

double relative_l2(const std::vector<float>& a, const std::vector<float>& expected) {
  EXPECT_EQ(a.size(), expected.size());
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / size);
}

class Expected {
 public:
  explicit Expected(const std::string& name)
      : source_(*formats::open_safetensors(
            std::move(formats::open_file(kModels + name + "/expected.safetensors")).value())) {}
  bool has(const std::string& tensor) const { return source_->find(tensor) != nullptr; }
  std::vector<float> values(const std::string& tensor) const {
    const auto host = source_->read(tensor);
    return floats(host->bytes, host->info.dtype);
  }
  std::vector<std::int64_t> integers(const std::string& tensor) const {
    const auto host = source_->read(tensor);
    std::vector<std::int64_t> values(host->bytes.size() / 8);
    std::memcpy(values.data(), host->bytes.data(), host->bytes.size());
    return values;
  }
  std::vector<TokenId> ids() const {
    std::vector<TokenId> ids;
    for (const std::int64_t id : integers("input_ids")) ids.push_back(static_cast<TokenId>(id));
    return ids;
  }

 private:
  std::shared_ptr<formats::TensorSource> source_;
};

// Forwards every operator and keeps the router's choices: of each use of experts, in order.
class RoutingRecorder final : public ops::Step {
 public:
  struct Use {
    std::vector<std::int64_t> ids;  // [rows][top_k] ascending
    std::vector<float> weights;
  };
  RoutingRecorder(ops::Step& step, std::vector<Use>& uses) : step_(step), uses_(uses) {}

  ops::Tensor experts(const ops::Tensor& x, const ops::Tensor& router_logits,
                      const ops::Experts& weights, const ops::RoutingSpec& routing) override {
    Use use;
    const std::vector<float> logits = floats(step_.read(router_logits), tensor::DType::kF32);
    for (std::int64_t row = 0; row < x.rows; ++row)
      add_row(logits.data() + row * weights.experts(), weights.experts(), routing, use);
    uses_.push_back(std::move(use));
    return step_.experts(x, router_logits, weights, routing);
  }
  ops::Tensor embed(const ops::Linear& table) override { return step_.embed(table); }
  ops::Tensor residual_in() override { return step_.residual_in(); }
  ops::Tensor rms_norm(const ops::Tensor& x, const ops::Vec& w, float eps) override {
    return step_.rms_norm(x, w, eps);
  }
  ops::Tensor linear(const ops::Tensor& x, const ops::Linear& w) override {
    return step_.linear(x, w);
  }
  ops::Tensor attention(const ops::AttentionSpec& spec, const ops::Tensor& qkv) override {
    return step_.attention(spec, qkv);
  }
  ops::Tensor swiglu(const ops::Tensor& gate_up) override { return step_.swiglu(gate_up); }
  void add_gated(ops::Tensor& y, const ops::Tensor& shared, const ops::Tensor& gate) override {
    step_.add_gated(y, shared, gate);
  }
  void add_residual(ops::Tensor& residual, const ops::Tensor& y) override {
    step_.add_residual(residual, y);
  }
  ops::Tensor take_rows(const ops::Tensor& x, std::span<const std::int32_t> rows) override {
    return step_.take_rows(x, rows);
  }
  std::span<const std::byte> read(const ops::Tensor& x) override { return step_.read(x); }

 private:
  static void add_row(const float* logits, std::int64_t experts, const ops::RoutingSpec& routing,
                      Use& use) {
    std::vector<std::int64_t> ids(static_cast<std::size_t>(experts));
    double all = 0, chosen = 0;
    for (std::int64_t e = 0; e < experts; ++e) {
      ids[static_cast<std::size_t>(e)] = e;
      all += std::exp(static_cast<double>(logits[e]));
    }
    std::stable_sort(ids.begin(), ids.end(),
                     [&](std::int64_t a, std::int64_t b) { return logits[a] > logits[b]; });
    ids.resize(static_cast<std::size_t>(routing.top_k));
    std::sort(ids.begin(), ids.end());
    for (const std::int64_t e : ids) chosen += std::exp(static_cast<double>(logits[e]));
    for (const std::int64_t e : ids) {
      use.ids.push_back(e);
      use.weights.push_back(static_cast<float>(std::exp(static_cast<double>(logits[e])) /
                                               (routing.normalise ? chosen : all)));
    }
  }

  ops::Step& step_;
  std::vector<Use>& uses_;
};

// Residuals by boundary and logits of all rows, as bytes.
struct Trace {
  std::map<std::uint32_t, std::vector<std::byte>> residual;
  std::vector<std::byte> logits;
  std::vector<RoutingRecorder::Use> routing;  // of layers with experts, ascending
};

// One prefill of one sequence through stages that begin at `cuts` (ascending, the first 0).
Trace run(const formats::ModelFiles& files, const ModelSpec& spec, const std::vector<TokenId>& ids,
          std::vector<std::uint32_t> cuts) {
  const auto backend = backends::ref::make_ref_backend();
  const ops::RopeTable rope = rope_table(spec.rope);
  const Decoder decoder(spec, rope);
  const auto rows = static_cast<std::int32_t>(ids.size());
  std::vector<std::int32_t> positions(ids.size());
  for (std::int32_t i = 0; i < rows; ++i) positions[static_cast<std::size_t>(i)] = i;
  const std::vector<std::int32_t> row_start = {0, rows};
  const std::vector<std::int32_t> kv_length = {rows};
  const std::vector<std::int32_t> page_start = {0, 1};
  const std::vector<PageId> pages = {PageId{1}};
  Trace trace;
  cuts.push_back(spec.layers);
  for (std::size_t s = 0; s + 1 < cuts.size(); ++s) {
    const LayerRange range{cuts[s], cuts[s + 1]};
    const auto stage = load_stage(spec, *files.tensors, *backend, range);
    EXPECT_TRUE(stage.ok()) << stage.error().message;
    const auto pool =
        backend->make_kv({range.size(), spec.kv_heads, spec.head_dim, spec.residual}, 2);
    EXPECT_TRUE(pool.ok()) << pool.error().message;
    ops::Batch batch{.tokens = ids,
                     .positions = positions,
                     .row_start = row_start,
                     .kv_length = kv_length,
                     .page_start = page_start,
                     .pages = pages,
                     .residual_in = {},
                     .hidden = spec.hidden,
                     .residual = spec.residual};
    if (s > 0) batch.residual_in = trace.residual.at(range.begin);
    const auto computing = backend->begin_step(pool->get(), batch);
    RoutingRecorder step(*computing, trace.routing);
    const auto keep = [&](std::uint32_t layer, ops::Step& st, const ops::Tensor& residual) {
      const auto bytes = st.read(residual);
      trace.residual[layer].assign(bytes.begin(), bytes.end());
    };
    const ops::Tensor h = decoder.run_layers(step, *stage, range, keep);
    if (range.end < spec.layers) continue;
    const auto bytes = step.read(decoder.logits(step, *stage, h, positions));
    trace.logits.assign(bytes.begin(), bytes.end());
  }
  return trace;
}

class Golden : public testing::TestWithParam<const char*> {};
class MoeGolden : public testing::TestWithParam<const char*> {};

TEST_P(Golden, AgreesWithTransformersAtEveryLayer) {
  const std::string name = GetParam();
  const formats::ModelFiles files = *formats::open_model(kModels + name, {});
  const ModelSpec spec = *parse_config(files);
  const Expected expected(name);
  const Trace trace = run(files, spec, expected.ids(), {0});
  const bool is_f32 = spec.residual == tensor::DType::kF32;
  // bf16: against the f32 values, 1.5 times what the bf16 run of transformers is off.
  const auto bound = [&](const std::string& tensor, double f32, double bf16) {
    if (is_f32) return f32;
    const std::string base = tensor.substr(0, tensor.find('.'));
    const std::string twin = base + "_bf16" + tensor.substr(base.size());
    return expected.has(twin)
               ? std::max(bf16, 1.5 * relative_l2(expected.values(twin), expected.values(tensor)))
               : bf16;
  };
  EXPECT_EQ(floats(trace.residual.at(0), spec.residual), expected.values("hidden.embed"));
  for (std::uint32_t layer = 0; layer < spec.layers; ++layer) {
    const std::string tensor = fmt::format("hidden.{}", layer);
    EXPECT_LE(
        relative_l2(floats(trace.residual.at(layer + 1), spec.residual), expected.values(tensor)),
        bound(tensor, 1e-5, 1e-2))
        << tensor;
  }
  const std::vector<float> logits = floats(trace.logits, tensor::DType::kF32);
  EXPECT_LE(relative_l2(logits, expected.values("logits")), bound("logits", 1e-5, 2e-2));
}

TEST_P(MoeGolden, ChoosesTheSameExperts) {
  const std::string name = GetParam();
  const formats::ModelFiles files = *formats::open_model(kModels + name, {});
  const ModelSpec spec = *parse_config(files);
  const Expected expected(name);
  const Trace trace = run(files, spec, expected.ids(), {0});
  std::size_t use = 0;
  for (std::uint32_t layer = 0; layer < spec.layers; ++layer) {
    const std::string ids = fmt::format("router_ids.{}", layer);
    ASSERT_EQ(expected.has(ids), spec.is_moe(layer)) << layer;
    if (!spec.is_moe(layer)) continue;
    ASSERT_LT(use, trace.routing.size());
    const RoutingRecorder::Use& found = trace.routing[use++];
    EXPECT_EQ(found.ids, expected.integers(ids)) << ids;
    // The weights of a bf16 model are compared where its residual is not rounded: in its twin.
    if (spec.residual != tensor::DType::kF32) continue;
    const std::vector<float> weights = expected.values(fmt::format("router_weights.{}", layer));
    ASSERT_EQ(found.weights.size(), weights.size());
    for (std::size_t i = 0; i < weights.size(); ++i)
      EXPECT_NEAR(found.weights[i], weights[i], 1e-5) << ids << " " << i;
  }
  EXPECT_EQ(use, trace.routing.size());
}

TEST_P(MoeGolden, GivesTheSameBitsHoweverItsExpertsAreStored) {
  formats::ModelFiles files = *formats::open_model(kModels + GetParam(), {});
  const ModelSpec spec = *parse_config(files);
  const std::vector<TokenId> ids = Expected(GetParam()).ids();
  const Trace separate = run(files, spec, ids, {0});
  const std::shared_ptr<const formats::TensorSource> source = files.tensors;
  for (const ExpertLayout layout : {ExpertLayout::kStacked, ExpertLayout::kFused}) {
    files.tensors = std::make_shared<RestackedSource>(spec, *source, layout, true);
    const Trace trace = run(files, spec, ids, {0});
    EXPECT_EQ(trace.residual, separate.residual);
    EXPECT_EQ(trace.logits, separate.logits);
  }
  // Slices of quantised tensors; only near the values of the plain ones.
  std::vector<std::byte> logits;
  for (const ExpertLayout layout : {ExpertLayout::kSeparate, ExpertLayout::kStacked}) {
    files.tensors = std::make_shared<RestackedSource>(spec, *source, layout, false, true);
    const Trace trace = run(files, spec, ids, {0});
    if (logits.empty()) logits = trace.logits;
    EXPECT_EQ(trace.logits, logits);
    EXPECT_NE(trace.logits, separate.logits);
    EXPECT_LE(relative_l2(floats(trace.logits, tensor::DType::kF32),
                          floats(separate.logits, tensor::DType::kF32)),
              0.2);
  }
}

TEST_P(Golden, GivesTheSameBitsHoweverItIsCut) {
  const formats::ModelFiles files = *formats::open_model(kModels + GetParam(), {});
  const ModelSpec spec = *parse_config(files);
  const std::vector<TokenId> ids = Expected(GetParam()).ids();
  const Trace whole = run(files, spec, ids, {0});
  for (const auto& cuts :
       std::vector<std::vector<std::uint32_t>>{{0, 1}, {0, 2}, {0, 3}, {0, 1, 2, 3}}) {
    const Trace cut = run(files, spec, ids, cuts);
    EXPECT_EQ(cut.residual, whole.residual);
    EXPECT_EQ(cut.logits, whole.logits);
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Golden,
                         testing::Values("llama", "llama-bf16", "llama-untied", "qwen2",
                                         "qwen2-bf16", "qwen2-yarn", "qwen3", "qwen3-bf16",
                                         "qwen2_moe", "qwen2_moe-bf16", "qwen3_moe",
                                         "qwen3_moe-bf16", "qwen3-sharded"));

INSTANTIATE_TEST_SUITE_P(Fixtures, MoeGolden,
                         testing::Values("qwen2_moe", "qwen2_moe-bf16", "qwen3_moe",
                                         "qwen3_moe-bf16"));

}  // namespace
}  // namespace mesh::model
