#include "engine/stage.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "backends/backends.h"
#include "engine/local_ring.h"
#include "model/config.h"
#include "model/random_model.h"

namespace mesh::engine {
namespace {

struct Fixture {
  Fixture() {
    model::RandomModelOptions shape;
    shape.context = 200;
    files = model::make_random_model(shape).value();
    spec = model::parse_config(files).value();
    backend = backends::make_backend("cpu", {}).value();
  }
  Result<std::unique_ptr<Stage>> load(LayerRange layers, const StageOptions& options,
                                      std::unique_ptr<Stage> previous = nullptr) {
    return Stage::load(*backend, *files.tensors, spec, layers, options, std::move(previous));
  }
  formats::ModelFiles files;
  model::ModelSpec spec;
  std::unique_ptr<ops::Backend> backend;
};

// Two sequences: rows 0..2 of one, row 0 of the other.
StepJob two_sequences() {
  StepJob job;
  job.tokens = {5, 6, 7, 9};
  job.positions = {0, 1, 2, 0};
  job.row_start = {0, 3, 4};
  job.kv_length = {3, 1};
  job.page_start = {0, 1, 2};
  job.pages = {PageId{1}, PageId{2}};
  job.sample_rows = {2, 3};
  return job;
}

TEST(Stage, PagesComeFromTheMemoryBudget) {
  Fixture f;
  // 4 layers · 2 (K, V) · 2 heads · 16 dimensions · 64 positions · 2 bytes.
  const std::uint64_t page_bytes = 4 * 2 * 2 * 16 * 64 * 2;
  const auto stage = f.load({0, 4}, {.kv_bytes = 10 * page_bytes + 1});
  ASSERT_TRUE(stage.ok()) << stage.error().message;
  EXPECT_EQ((*stage)->report().pages, 10u);
  EXPECT_EQ((*stage)->kv().bytes_per_page(), page_bytes);
  const auto starved = f.load({0, 4}, {.kv_bytes = 2 * page_bytes - 1});
  ASSERT_FALSE(starved.ok());
  EXPECT_EQ(starved.error().code, Code::kResourceExhausted);
}

TEST(Stage, WeightsAndKvTogetherStayWithinTheMemoryOffered) {
  Fixture f;
  const std::uint64_t page_bytes = 4 * 2 * 2 * 16 * 64 * 2;
  const std::uint64_t weights = f.load({0, 4}, {.pages = 2}).value()->report().bytes_loaded;
  const StageOptions tight{.kv_bytes = 10 * page_bytes, .memory_bytes = weights + 3 * page_bytes};
  const auto stage = f.load({0, 4}, tight);
  ASSERT_TRUE(stage.ok()) << stage.error().message;
  EXPECT_EQ((*stage)->report().pages, 3u);
  const auto heavy = f.load({0, 4}, {.kv_bytes = 10 * page_bytes, .memory_bytes = weights / 2});
  ASSERT_FALSE(heavy.ok());
  EXPECT_EQ(heavy.error().code, Code::kResourceExhausted);
}

TEST(Stage, RefusesRangesOutsideTheModel) {
  Fixture f;
  for (const LayerRange layers : {LayerRange{0, 5}, LayerRange{2, 2}, LayerRange{3, 1}})
    EXPECT_EQ(f.load(layers, {.pages = 2}).error().code, Code::kInvalidArgument);
}

TEST(Stage, ANewRangeReadsOnlyWhatIsMissing) {
  Fixture f;
  auto stage = f.load({0, 3}, {.pages = 3}).value();
  const std::uint64_t before = f.files.tensors->bytes_read();
  const auto hashes = stage->report().layer_hash;
  stage = f.load({1, 3}, {.pages = 3}, std::move(stage)).value();
  EXPECT_EQ(f.files.tensors->bytes_read(), before);
  EXPECT_EQ(stage->report().layer_hash, (std::vector<std::uint64_t>{hashes[1], hashes[2]}));
  stage = f.load({1, 4}, {.pages = 3}, std::move(stage)).value();
  const std::uint64_t one_more = f.files.tensors->bytes_read() - before;
  const auto fresh = f.load({1, 4}, {.pages = 3}).value();
  EXPECT_LT(one_more, fresh->report().bytes_loaded);
  EXPECT_EQ(stage->report().layer_hash, fresh->report().layer_hash);
  EXPECT_EQ(stage->report().bytes_loaded, fresh->report().bytes_loaded);
}

TEST(Stage, StagesHandOverWhatOneStageComputes) {
  Fixture f;
  const auto whole = f.load({0, 4}, {.pages = 3}).value();
  const auto first = f.load({0, 1}, {.pages = 3}).value();
  const auto second = f.load({1, 4}, {.pages = 3}).value();
  const StepOutput expected = whole->run(two_sequences()).value();
  StepOutput half = first->run(two_sequences()).value();
  EXPECT_TRUE(half.sampled.empty());
  EXPECT_EQ(half.residual_out.size(), 4 * first->row_bytes());
  StepJob job = two_sequences();
  job.residual_in = std::move(half.residual_out);
  const StepOutput out = second->run(job).value();
  EXPECT_EQ(out.sampled, expected.sampled);
  EXPECT_EQ(out.sampled.size(), 2u);
  EXPECT_TRUE(out.residual_out.empty());
}

TEST(Stage, ReportsTheSequenceWhoseRowsAreNotFinite) {
  Fixture f;
  for (const LayerRange layers : {LayerRange{1, 2}, LayerRange{1, 4}}) {
    const auto stage = f.load(layers, {.pages = 3}).value();
    StepJob job = two_sequences();
    if (layers.end < 4) job.sample_rows.clear();
    job.residual_in = Buffer(4 * stage->row_bytes());
    std::memset(job.residual_in.data(), 0, job.residual_in.size());
    EXPECT_EQ(stage->run(job).value().non_finite, (std::vector<std::uint8_t>{0, 0}));
    // One bf16 NaN, then one infinity, in the row of the second sequence.
    for (const std::uint16_t bad : {std::uint16_t{0x7FC0}, std::uint16_t{0xFF80}}) {
      std::memcpy(job.residual_in.data() + 3 * stage->row_bytes() + 10, &bad, sizeof(bad));
      EXPECT_EQ(stage->run(job).value().non_finite, (std::vector<std::uint8_t>{0, 1}));
    }
  }
}

// Prompt rows are scored, the last one is sampled; a row's logits do not depend on what is asked of
// it.
TEST(Stage, ScoresGivenRowsAndSamplesOthers) {
  Fixture f;
  const auto stage = f.load({0, 4}, {.pages = 3}).value();
  const StepOutput likeliest = stage->run(two_sequences()).value();
  StepJob job = two_sequences();
  SamplingParams params;
  params.logprobs = 1;
  job.sample_rows = {0, 1, 2, 3};
  job.sampling.resize(4);
  for (SampleSpec& spec : job.sampling)
    spec.params = std::make_shared<const SamplingParams>(params);
  job.sampling[0].given = 6;
  job.sampling[1].given = 7;
  const StepOutput out = stage->run(job).value();
  ASSERT_EQ(out.sampled.size(), 4u);
  EXPECT_EQ(out.sampled[0].token, 6);
  EXPECT_EQ(out.sampled[1].token, 7);
  EXPECT_LT(out.sampled[0].logprob, 0.0f);
  EXPECT_EQ(out.sampled[2].token, likeliest.sampled[0].token);
  EXPECT_EQ(out.sampled[3].token, likeliest.sampled[1].token);
  EXPECT_EQ(out.sampled[2].top,
            (std::vector<TokenScore>{{out.sampled[2].token, out.sampled[2].logprob}}));
  job.sampling[1].given = static_cast<TokenId>(f.spec.vocabulary);
  EXPECT_EQ(stage->run(job).error().code, Code::kInvalidArgument);
}

TEST(Stage, DamagedJobsAreErrors) {
  Fixture f;
  const auto stage = f.load({0, 4}, {.pages = 3}).value();
  StepJob job = two_sequences();
  job.pages[1] = PageId{3};
  EXPECT_EQ(stage->run(job).error().code, Code::kInvalidArgument);
  job = two_sequences();
  job.residual_in = Buffer(4 * stage->row_bytes());
  EXPECT_EQ(stage->run(job).error().code, Code::kInvalidArgument);
}

TEST(LocalRing, ReservesOnEveryStageOrOnNone) {
  Fixture f;
  const auto ring =
      LocalRing::make(*f.backend, *f.files.tensors, f.spec, {.cuts = {1, 2}, .pages = 3}).value();
  EXPECT_EQ(ring->stages(), 3u);
  EXPECT_TRUE(ring->reserve(SequenceId{1}, 64).ok());
  EXPECT_FALSE(ring->reserve(SequenceId{2}, 65).ok());
  EXPECT_TRUE(ring->reserve(SequenceId{2}, 64).ok());
  ring->release(SequenceId{1});
  EXPECT_TRUE(ring->reserve(SequenceId{3}, 1).ok());
  for (const std::vector<std::uint32_t>& cuts :
       {std::vector<std::uint32_t>{0}, {4}, {2, 2}, {3, 1}, {9}})
    EXPECT_FALSE(
        LocalRing::make(*f.backend, *f.files.tensors, f.spec, {.cuts = cuts, .pages = 3}).ok());
}

}  // namespace
}  // namespace mesh::engine
