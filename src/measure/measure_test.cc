#include <gtest/gtest.h>

#include <algorithm>

#include "measure/real_time.h"
#include "measure/speed.h"
#include "model/random_model.h"

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
