#include <gtest/gtest.h>

#include <algorithm>

#include "measure/real_time.h"
#include "measure/speed.h"
#include "model/random_model.h"
#include "wire/messages.h"

namespace mesh::measure {
namespace {

Result<formats::ModelFiles> tiny() {
  model::RandomModelOptions options;
  options.layers = 2;
  return model::make_random_model(options);
}

SpeedOptions short_options() {
  SpeedOptions options;
  options.prompts = {70};
  options.streams = {1, 3};
  options.new_tokens = 40;
  options.repeats = 1;
  return options;
}

TEST(Percentile, IsTheNearestRank) {
  EXPECT_EQ(percentile({}, 0.5), 0);
  EXPECT_EQ(percentile({3, 1, 2}, 0.5), 2);
  EXPECT_EQ(percentile({4, 1, 3, 2}, 0.5), 2);
  EXPECT_EQ(percentile({4, 1, 3, 2}, 0.99), 4);
}

TEST(HopLedger, PairsTheFramesOfAKindInTheOrderSent) {
  HopLedger ledger;
  PeerId a, b;
  b.bytes.fill(1);
  const auto at = [](int ms) { return Instant(milliseconds(ms)); };
  ledger.sent(a, b, 1, at(10));
  ledger.sent(a, b, 2, at(11));
  ledger.sent(a, b, 1, at(20));
  ledger.sent(b, a, 1, at(21));
  ledger.received(a, b, 1, at(13));
  ledger.received(a, b, 1, at(25));
  ledger.received(a, b, 2, at(26));
  ledger.received(a, b, 2, at(27));  // which nobody sent
  ledger.received(b, a, 1, at(28));
  EXPECT_EQ(ledger.records().size(), 4u);
  EXPECT_EQ(median_hop_ms(ledger.records(), 1, at(0), at(26)), 3);
  EXPECT_EQ(median_hop_ms(ledger.records(), 1, at(26), at(99)), 7);
  EXPECT_EQ(median_hop_ms(ledger.records(), 2, at(0), at(99)), 15);
}

TEST(Speed, IsMeasuredThroughEveryStage) {
  const SpeedOptions options = short_options();
  LocalMeshOptions mesh_options;
  mesh_options.model = tiny;
  mesh_options.stages = {{0, 1}, {1, 2}};
  mesh_options.pages = pages_needed(options);
  auto mesh = LocalMesh::start(mesh_options);
  ASSERT_TRUE(mesh.ok()) << mesh.error().message;
  const auto report = measure_speed(**mesh, options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  ASSERT_EQ(report->prompts.size(), 1u);
  EXPECT_GT(report->prompts[0].tokens_per_second, 0);
  ASSERT_EQ(report->streams.size(), 2u);
  for (const StreamSpeed& speed : report->streams) {
    EXPECT_GT(speed.tokens_per_second, 0);
    EXPECT_GE(speed.gap_p99_ms, speed.gap_ms);
  }
  // Every position was computed by both stages: warm-up, prompt, and four streams.
  for (std::size_t stage = 0; stage < 2; ++stage) {
    std::size_t rows = 0;
    for (const StepRecord& record : (*mesh)->records(stage)) rows += record.rows;
    EXPECT_GE(rows, 16u + 70u + 4u * (16u + 40u)) << "stage " << stage;
  }
  // Every token after the first of a stream came of a hop of rows and one of tokens.
  for (const wire::FrameType type : {wire::FrameType::kStep, wire::FrameType::kTokens}) {
    const auto hops = (*mesh)->hops();
    const auto number = static_cast<std::uint8_t>(type);
    EXPECT_GE(std::count_if(hops.begin(), hops.end(),
                            [&](const HopRecord& hop) { return hop.type == number; }),
              40);
    const double ms = median_hop_ms(hops, number, Instant(), now());
    EXPECT_GT(ms, 0);
    EXPECT_LT(ms, 10'000);
    EXPECT_EQ(median_hop_ms(hops, number, Instant(), Instant()), 0);
  }
}

TEST(Speed, RefusesMoreThanTheContext) {
  SpeedOptions options = short_options();
  LocalMeshOptions mesh_options;
  mesh_options.model = tiny;
  auto mesh = LocalMesh::start(mesh_options);
  ASSERT_TRUE(mesh.ok()) << mesh.error().message;
  options.prompts = {2048};
  const auto report = measure_speed(**mesh, options);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().message, "2049 positions are asked for, the model's context is 2048");
}

}  // namespace
}  // namespace mesh::measure
