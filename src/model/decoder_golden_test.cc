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
  std::vector<TokenId> ids() const {
    const auto host = source_->read("input_ids");
    std::vector<TokenId> ids(host->bytes.size() / 8);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      std::int64_t id = 0;
      std::memcpy(&id, host->bytes.data() + 8 * i, 8);
      ids[i] = static_cast<TokenId>(id);
    }
    return ids;
  }

 private:
  std::shared_ptr<formats::TensorSource> source_;
};

// Residuals by boundary and logits of all rows, as bytes.
struct Trace {
  std::map<std::uint32_t, std::vector<std::byte>> residual;
  std::vector<std::byte> logits;
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
    const auto step = backend->begin_step(pool->get(), batch);
    const auto keep = [&](std::uint32_t layer, ops::Step& st, const ops::Tensor& residual) {
      const auto bytes = st.read(residual);
      trace.residual[layer].assign(bytes.begin(), bytes.end());
    };
    const ops::Tensor h = decoder.run_layers(*step, *stage, range, keep);
    if (range.end < spec.layers) continue;
    const auto bytes = step->read(decoder.logits(*step, *stage, h, positions));
    trace.logits.assign(bytes.begin(), bytes.end());
  }
  return trace;
}

class Golden : public testing::TestWithParam<const char*> {};

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
                                         "qwen2_moe", "qwen2_moe-bf16",
                                         "qwen3_moe", "qwen3_moe-bf16", "qwen3-sharded"));

}  // namespace
}  // namespace mesh::model
