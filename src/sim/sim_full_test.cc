#include <gtest/gtest.h>

#include <algorithm>

#include "sim/full_run.h"

namespace mesh::sim {
namespace {

std::string list(const Violations& violations) {
  std::string out;
  for (const std::string& sentence : violations.all()) out += sentence + "\n";
  return out;
}

FullRun quiet(std::uint32_t nodes) {
  FullRun run;
  run.nodes = nodes;
  run.seconds = 10;
  run.faults = false;
  return run;
}

TEST(FullMesh, QuietMeshesOfEverySizeGiveTheReference) {
  for (const std::uint32_t nodes : {1u, 2u, 3u, 4u, 7u}) {
    SCOPED_TRACE(nodes);
    const FullOutcome outcome = run_full(quiet(nodes));
    EXPECT_TRUE(outcome.violations.empty()) << list(outcome.violations);
    EXPECT_EQ(outcome.clients.finished + outcome.clients.cancelled, outcome.clients.submitted);
    EXPECT_EQ(outcome.plans, 1u);
    EXPECT_GT(outcome.clients.tokens, 1000u);
  }
}

TEST(FullMesh, EveryCutGivesTheReference) {
  for (std::uint32_t cut = 1; cut < 6; ++cut) {
    SCOPED_TRACE(cut);
    FullMeshOptions options;
    options.nodes = 2;
    options.min_nodes = 2;
    options.pinned = {{1, {0, cut}}, {2, {cut, 6}}};
    FullMesh mesh(options);
    mesh.start(1);
    mesh.start(2);
    ASSERT_TRUE(mesh.settle(seconds(10))) << mesh.state();
    EXPECT_EQ(mesh.node(1).membership().own().layers, (LayerRange{0, cut}));
    Prng random(cut);
    for (int i = 0; i < 20; ++i) mesh.submit_random(1 + i % 2, random, true);
    EXPECT_TRUE(mesh.drain(seconds(20)));
    mesh.world().run_for(seconds(1));
    mesh.check_idle();
    mesh.finish();
    EXPECT_TRUE(mesh.violations().empty()) << list(mesh.violations());
    EXPECT_EQ(mesh.counts().finished, 20u);
  }
}

// Six nodes for four layers: two are spare, hold nothing and still answer clients.
TEST(FullMesh, SpareNodesAnswerClients) {
  FullRun run = quiet(6);
  run.layers = 4;
  const FullOutcome outcome = run_full(run);
  EXPECT_TRUE(outcome.violations.empty()) << list(outcome.violations);
}

TEST(FullMesh, FaultsEndInAFullPipeline) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    FullRun run;
    run.seed = seed;
    const FullOutcome outcome = run_full(run);
    ASSERT_TRUE(outcome.violations.empty()) << list(outcome.violations);
    EXPECT_GT(outcome.clients.finished, 0u);
  }
}

// A few sequences fill the pools; they grow, give way and are replayed, and the tokens stay the
// same.
TEST(FullMesh, CrowdedPoolsPreemptAndReplay) {
  std::uint64_t preemptions = 0, replays = 0;
  for (const std::uint32_t nodes : {1u, 3u}) {
    SCOPED_TRACE(nodes);
    FullRun run = quiet(nodes);
    run.min_nodes = nodes;
    run.pages = 25;
    run.answer_max = 500;
    run.requests = 40;
    const FullOutcome outcome = run_full(run);
    EXPECT_TRUE(outcome.violations.empty()) << list(outcome.violations);
    EXPECT_EQ(outcome.clients.finished + outcome.clients.cancelled, outcome.clients.submitted);
    preemptions += outcome.clients.preemptions;
    replays += outcome.clients.replays;
  }
  EXPECT_GT(preemptions, 0u);
  EXPECT_GT(replays, 0u);
}

TEST(FullMesh, SlowReadersAreParkedAndComeBack) {
  FullMeshOptions options;
  options.min_nodes = 3;
  options.slow_readers = 8;
  options.answer_max = 400;
  FullMesh mesh(options);
  for (std::uint32_t n = 1; n <= 3; ++n) mesh.start(n);
  ASSERT_TRUE(mesh.settle(seconds(10))) << mesh.state();
  Prng random(5);
  for (int i = 0; i < 20; ++i) mesh.submit_random(1 + i % 3, random, true);
  EXPECT_TRUE(mesh.drain(seconds(60)));
  mesh.world().run_for(seconds(1));
  mesh.check_idle();
  mesh.finish();
  EXPECT_TRUE(mesh.violations().empty()) << list(mesh.violations());
  EXPECT_EQ(mesh.counts().finished, 20u);
  EXPECT_GT(mesh.counts().parked, 0u);
  EXPECT_EQ(mesh.counts().preemptions, 0u);
  EXPECT_EQ(mesh.counts().replays, mesh.counts().parked);
}

TEST(FullMesh, CrowdedPoolsSurviveFaults) {
  std::uint64_t preemptions = 0, parked = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    FullRun run;
    run.seed = seed;
    run.pages = 30;
    run.answer_max = 500;
    const FullOutcome outcome = run_full(run);
    ASSERT_TRUE(outcome.violations.empty()) << list(outcome.violations);
    preemptions += outcome.clients.preemptions;
    parked += outcome.clients.parked;
  }
  EXPECT_GT(preemptions, 0u);
  EXPECT_GT(parked, 0u);
}

TEST(FullMesh, SameSeedSameTrace) {
  FullRun run;
  run.seed = 4;
  const std::uint64_t trace = run_full(run).trace;
  EXPECT_EQ(run_full(run).trace, trace);
  run.seed = 5;
  EXPECT_NE(run_full(run).trace, trace);
}

// Only the two ends of a link notice that it is cut; the entry is linked with both.
TEST(FullMesh, ACutBetweenTwoStagesEndsTheRequestSoon) {
  FullMeshOptions options;
  options.min_nodes = 3;
  FullMesh mesh(options);
  for (std::uint32_t n = 1; n <= 3; ++n) mesh.start(n);
  ASSERT_TRUE(mesh.settle(seconds(10))) << mesh.state();
  const auto stages = mesh.node(1).membership().plan().stages;
  ASSERT_EQ(stages.size(), 3u);
  // The entry is stage 0: the link between the other two breaks.
  std::uint32_t entry = 1;
  while (FullMesh::id(entry) != stages[0].node) ++entry;
  pipeline::GenerateParams params;
  params.prompt = {1, 2, 3};
  params.new_tokens_max = 2000;
  mesh.submit(entry, params);
  mesh.world().run_for(milliseconds(200));
  ASSERT_GT(mesh.counts().tokens, 0u);
  mesh.network().cut(stages[1].node, stages[2].node);
  mesh.world().run_for(milliseconds(3000));
  EXPECT_EQ(mesh.open_requests(), 0u);
  EXPECT_EQ(mesh.counts().failed.count("unavailable"), 1u);
  mesh.network().heal_all();
  ASSERT_TRUE(mesh.settle(seconds(10))) << mesh.state();
  mesh.check_idle();
  EXPECT_TRUE(mesh.violations().empty()) << list(mesh.violations());
}

// --- the checkers speak up

// Hands everything on, but for what a test breaks.
class BrokenSink : public pipeline::TokenSink {
 public:
  enum class Fault { kRepeat, kSwallow, kNoEnd };
  BrokenSink(std::shared_ptr<TokenSink> inner, Fault fault)
      : inner_(std::move(inner)), fault_(fault) {}
  void cached(std::uint32_t positions) override { inner_->cached(positions); }
  void admitted() override { inner_->admitted(); }
  void prompt_scores(std::vector<SampledToken> scores) override {
    inner_->prompt_scores(std::move(scores));
  }
  void token(const SampledToken& id) override {
    if (++count_ == 2 && fault_ == Fault::kSwallow) return;
    inner_->token(id);
    if (count_ == 2 && fault_ == Fault::kRepeat) inner_->token(id);
  }
  void finished(wire::Finish reason) override {
    if (fault_ != Fault::kNoEnd) inner_->finished(reason);
  }
  void failed(const Error& why) override { inner_->failed(why); }

 private:
  std::shared_ptr<TokenSink> inner_;
  Fault fault_;
  int count_ = 0;
};

// One token in twenty is another one.
class BrokenCompute : public engine::Compute {
 public:
  explicit BrokenCompute(std::unique_ptr<FakeCompute> inner) : inner_(std::move(inner)) {}
  engine::ComputeShape shape() const override { return inner_->shape(); }
  void load(LayerRange layers, std::function<void(Result<engine::LoadReport>)> done) override {
    inner_->load(layers, std::move(done));
  }
  void submit(engine::StepJob job, std::function<void(Result<engine::StepOutput>)> done) override {
    inner_->submit(std::move(job), [this, done = std::move(done)](Result<engine::StepOutput> out) {
      if (out.ok() && !out->sampled.empty() && ++steps_ % 20 == 0) out->sampled[0].token ^= 1;
      done(std::move(out));
    });
  }

 private:
  std::unique_ptr<FakeCompute> inner_;
  int steps_ = 0;
};

Violations broken(const std::function<void(FullMeshOptions&)>& change) {
  FullMeshOptions options;
  change(options);
  FullMesh mesh(options);
  for (std::uint32_t n = 1; n <= 3; ++n) mesh.start(n);
  EXPECT_TRUE(mesh.settle(seconds(10))) << mesh.state();
  Prng random(3);
  for (int i = 0; i < 10; ++i) mesh.submit_random(1, random, true);
  mesh.drain(seconds(10));
  mesh.finish();
  return mesh.violations();
}

TEST(FullMeshCanary, BrokenSinksAreSeen) {
  using Fault = BrokenSink::Fault;
  const auto with = [](Fault fault) {
    return list(broken([fault](FullMeshOptions& options) {
      options.wrap_sink = [fault](std::shared_ptr<pipeline::TokenSink> inner) {
        return std::make_shared<BrokenSink>(std::move(inner), fault);
      };
    }));
  };
  EXPECT_NE(with(Fault::kRepeat).find("token 2 is"), std::string::npos);
  EXPECT_NE(with(Fault::kSwallow).find("token 1 is"), std::string::npos);
  EXPECT_NE(with(Fault::kNoEnd).find("never ended"), std::string::npos);
  EXPECT_NE(with(Fault::kNoEnd).find("has stood still"), std::string::npos);
}

TEST(FullMeshCanary, ABrokenEngineIsSeen) {
  const Violations violations = broken([](FullMeshOptions& options) {
    options.wrap_compute = [](std::unique_ptr<FakeCompute> inner) {
      return std::make_unique<BrokenCompute>(std::move(inner));
    };
  });
  EXPECT_FALSE(violations.empty());
  EXPECT_TRUE(broken([](FullMeshOptions&) {}).empty()) << "nothing is broken";
}

}  // namespace
}  // namespace mesh::sim
