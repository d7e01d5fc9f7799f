#include "sim/fake_compute.h"

#include <gtest/gtest.h>

#include <memory>

#include "sim/host.h"

namespace mesh::sim {
namespace {

// One sequence over stages cut at `cuts`, the prompt in chunks, on pages that are out of order.
std::vector<TokenId> generate(const std::vector<std::uint32_t>& cuts, std::size_t chunk,
                              Violations& violations) {
  World world(1);
  Host host(world, "n", 1);
  FakeComputeConfig config;
  std::vector<std::unique_ptr<FakeCompute>> stages;
  std::uint32_t begin = 0;
  for (std::uint32_t end : cuts) {
    stages.push_back(std::make_unique<FakeCompute>(host, config, violations));
    stages.back()->load({begin, end}, [](Result<engine::LoadReport> r) { EXPECT_TRUE(r.ok()); });
    begin = end;
  }
  world.run_for(seconds(1));
  std::vector<TokenId> tokens;
  for (TokenId t = 0; t < 21; ++t) tokens.push_back(t * 13 % 1024);
  const std::size_t prompt = tokens.size();
  std::size_t at = 0;
  while (tokens.size() < prompt + 20) {
    const std::size_t end = std::min(tokens.size(), at + chunk);
    Buffer residual;
    for (auto& stage : stages) {
      engine::StepJob job;
      for (std::size_t p = at; p < end; ++p) {
        job.tokens.push_back(tokens[p]);
        job.positions.push_back(static_cast<std::int32_t>(p));
      }
      job.row_start = {0, static_cast<std::int32_t>(end - at)};
      job.kv_length = {static_cast<std::int32_t>(end)};
      job.pages = {{9}, {3}, {5}};
      job.page_start = {0, 3};
      job.residual_in = std::move(residual);
      if (stage == stages.back() && end == tokens.size())
        job.sample_rows = {static_cast<std::int32_t>(end - at - 1)};
      stage->submit(std::move(job), [&](Result<engine::StepOutput> out) {
        ASSERT_TRUE(out.ok()) << out.error().message;
        residual = std::move(out->residual_out);
        for (const SampledToken& t : out->sampled) tokens.push_back(t.token);
      });
      world.run_for(seconds(1));
    }
    at = end;
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt), tokens.end()};
}

TEST(FakeCompute, CutsAndChunksDoNotMatter) {
  Violations v;
  std::vector<TokenId> prompt;
  for (TokenId t = 0; t < 21; ++t) prompt.push_back(t * 13 % 1024);
  const auto expected = FakeCompute::reference(FakeComputeConfig{}, prompt, 20);
  EXPECT_EQ(generate({6}, 64, v), expected);
  EXPECT_EQ(generate({3, 6}, 5, v), expected);
  EXPECT_EQ(generate({1, 2, 6}, 1, v), expected);
  EXPECT_TRUE(v.empty());
}

TEST(FakeCompute, InconsistentJobsAreViolations) {
  World world(1);
  Host host(world, "n", 1);
  Violations v;
  FakeCompute compute(host, {}, v);
  compute.load({0, 6}, [](Result<engine::LoadReport>) {});
  world.run_for(seconds(1));
  const auto submit = [&](auto change) {
    engine::StepJob job;
    job.tokens = {1, 2};
    job.positions = {0, 1};
    job.row_start = {0, 2};
    job.kv_length = {2};
    job.page_start = {0, 1};
    job.pages = {{1}};
    job.sample_rows = {1};
    change(job);
    bool ok = false;
    compute.submit(std::move(job), [&](Result<engine::StepOutput> out) { ok = out.ok(); });
    world.run_for(seconds(1));
    return ok;
  };
  EXPECT_TRUE(submit([](auto&) {}));
  EXPECT_TRUE(v.empty());
  EXPECT_FALSE(submit([](auto& j) { j.positions = {0, 2}; }));
  EXPECT_FALSE(submit([](auto& j) { j.pages = {{0}}; }));
  EXPECT_FALSE(submit([](auto& j) { j.pages = {{1}, {1}}, j.page_start = {0, 2}; }));
  EXPECT_FALSE(submit([](auto& j) { j.pages = {{64}}; }));
  EXPECT_FALSE(submit([](auto& j) { j.page_start = {0, 2}; }));
  EXPECT_FALSE(submit([](auto& j) { j.sample_rows = {2}; }));
  EXPECT_FALSE(submit([](auto& j) { j.positions = {16, 17}, j.kv_length = {18}; })) << "pages";
  EXPECT_FALSE(submit([](auto& j) {
    j.positions = {5, 6}, j.kv_length = {7}, j.pages = {{2}};
  })) << "nothing was computed there";
  EXPECT_EQ(v.count(), 8u);
}

}  // namespace
}  // namespace mesh::sim
