#include <gtest/gtest.h>

#include <deque>

#include "base/limits.h"
#include "pipeline/hop.h"
#include "pipeline/test_stage.h"

namespace mesh::pipeline {
namespace {

TEST(HopTest, PassesAPromptOnAndTakesTokensBack) {
  Stage a(kA, {0, 2});
  ASSERT_FALSE(a.open(open_message(1, 3, 4, kX)));
  a.hop.on_prompt(kX, {SequenceId{1}, tokens_of(3)});
  ASSERT_TRUE(a.compute.finish_one());
  auto steps = a.transport.take(kB, wire::FrameType::kStep);
  ASSERT_EQ(steps.size(), 1u);
  const wire::StepMessage step = wire::decode_step(steps[0], kTestShape.row_bytes).value();
  ASSERT_EQ(step.rows.size(), 3u);
  EXPECT_EQ(step.rows[2], (wire::StepRow{SequenceId{1}, 2, 3}));
  EXPECT_EQ(step.route, wire::route_handle(Epoch{1}, kRoute));
  a.credit(1, 4, kX);
  a.hop.on_tokens(kC, {{{SequenceId{1}, 3, 42, wire::Finish::kNone}}});
  ASSERT_TRUE(a.compute.finish_one());
  steps = a.transport.take(kB, wire::FrameType::kStep);
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_EQ(wire::decode_step(steps[0], kTestShape.row_bytes)->rows[0],
            (wire::StepRow{SequenceId{1}, 3, 42}));
}

TEST(HopTest, LastStageReturnsTokensToEntryAndFirstStage) {
  Stage c(kC, {4, 6});
  ASSERT_FALSE(c.open(open_message(1, 2, 2, kX)));
  c.hop.on_step(kB, c.rows(1, 0, 2));
  ASSERT_TRUE(c.compute.finish_one());
  for (PeerId to : {kX, kA}) {
    const auto frames = c.transport.take(to, wire::FrameType::kTokens);
    ASSERT_EQ(frames.size(), 1u);
    EXPECT_EQ(wire::decode_tokens(frames[0])->rows[0],
              (wire::TokenRow{SequenceId{1}, 2, 11, wire::Finish::kNone}));
  }
  c.hop.on_step(kB, c.rows(1, 2, 1));
  ASSERT_TRUE(c.compute.finish_one());
  const auto frames = c.transport.take(kX, wire::FrameType::kTokens);
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(wire::decode_tokens(frames[0])->rows[0].finish, wire::Finish::kLength);
}

TEST(HopTest, FailsTheSequenceWhenATokenCannotBeReturned) {
  Stage c(kC, {4, 6});
  ASSERT_FALSE(c.open(open_message(1, 2, 2, kX)));
  c.transport.unreachable = kA;
  c.hop.on_step(kB, c.rows(1, 0, 2));
  ASSERT_TRUE(c.compute.finish_one());
  const auto fails = c.fails(kX);
  ASSERT_EQ(fails.size(), 1u);
  EXPECT_EQ(fails[0].why.code, Code::kUnavailable);
  EXPECT_EQ(c.hop.pages_used(), 0u);
}

TEST(HopTest, WrongPositionEndsThatSequenceOnly) {
  Stage b(kB, {2, 4});
  ASSERT_FALSE(b.open(open_message(1, 2, 4, kX)));
  ASSERT_FALSE(b.open(open_message(2, 2, 4, kX)));
  wire::StepMessage step = b.rows(1, 1, 1);
  step.rows.push_back({SequenceId{2}, 0, 5});
  step.rows.push_back({SequenceId{2}, 1, 5});
  step.hidden = Buffer(3 * kTestShape.row_bytes);
  b.hop.on_step(kA, std::move(step));
  const auto fails = b.fails(kX);
  ASSERT_EQ(fails.size(), 1u);
  EXPECT_EQ(fails[0].sequences, (std::vector<SequenceId>{SequenceId{1}}));
  EXPECT_EQ(fails[0].why.code, Code::kCorrupt);
  ASSERT_TRUE(b.compute.finish_one());
  EXPECT_EQ(b.transport.take(kC, wire::FrameType::kStep).size(), 1u);
  EXPECT_EQ(b.hop.sequences(), 1u);
}

TEST(HopTest, RowsOfStrangersAreIgnored) {
  Stage b(kB, {2, 4});
  ASSERT_FALSE(b.open(open_message(1, 2, 4, kX)));
  b.hop.on_step(kC, b.rows(1, 0, 1));  // not the stage before
  b.hop.on_prompt(kX, {SequenceId{1}, tokens_of(2)});
  EXPECT_EQ(b.hop.sequences(), 0u) << "a prompt for a middle stage is the entry's mistake";
  ASSERT_FALSE(b.open(open_message(2, 2, 4, kX)));
  b.hop.on_step(kX, b.rows(2, 0, 1));
  b.hop.on_tokens(kC, {{{SequenceId{2}, 2, 3, wire::Finish::kNone}}});
  b.hop.on_close(kA, {{SequenceId{2}}});
  EXPECT_EQ(b.hop.sequences(), 1u);
  EXPECT_FALSE(b.compute.finish_one());
  wire::StepMessage other = b.rows(2, 0, 1);
  other.route = RouteHandle{1};
  b.hop.on_step(kA, std::move(other));
  EXPECT_EQ(b.hop.sequences(), 0u);
}

TEST(HopTest, KeepsPagesUntilTheStepInFlightIsDone) {
  Stage a(kA, {0, 2});
  ASSERT_FALSE(a.open(open_message(1, 3, 100, kX)));
  a.hop.on_prompt(kX, {SequenceId{1}, tokens_of(3)});
  a.hop.on_close(kX, {{SequenceId{1}}});
  EXPECT_EQ(a.hop.pages_used(), 2u);
  EXPECT_FALSE(a.hop.idle());
  a.hop.on_close(kX, {{SequenceId{1}}});
  a.hop.on_peer_down(kX);
  a.hop.fail_all(Error(Code::kUnavailable, "drained"));
  ASSERT_TRUE(a.compute.finish_one());
  EXPECT_EQ(a.hop.pages_used(), 0u);
  EXPECT_TRUE(a.hop.idle());
  EXPECT_TRUE(a.transport.take(kB, wire::FrameType::kStep).empty());
  EXPECT_TRUE(a.fails(kX).empty());
}

TEST(HopTest, LostEntryOrNeighbourEndsSequences) {
  Stage b(kB, {2, 4});
  ASSERT_FALSE(b.open(open_message(1, 2, 4, kX)));
  ASSERT_FALSE(b.open(open_message(2, 2, 4, kA)));
  b.hop.on_peer_down(test_peer('y'));
  EXPECT_EQ(b.hop.sequences(), 2u);
  b.hop.on_peer_down(kX);
  EXPECT_EQ(b.hop.sequences(), 1u);
  b.hop.on_peer_down(kC);  // the entry A may still be linked to both
  b.hop.tick(b.loop.now());
  EXPECT_EQ(b.hop.sequences(), 1u) << "the entry may know better";
  b.hop.tick(b.loop.now() + limits::kHeartbeat);
  EXPECT_EQ(b.hop.sequences(), 0u);
  ASSERT_EQ(b.fails(kA).size(), 1u);
  EXPECT_EQ(b.hop.pages_used(), 0u);
}

TEST(HopTest, RefusesOpensThatItsLayersCannotServe) {
  Stage b(kB, {2, 4});
  const auto refused = [&](auto&& change) {
    wire::Open open = open_message(1, 2, 4, kX);
    change(open);
    const std::optional<Error> why = b.open(open);
    return why ? why->message : std::string();
  };
  EXPECT_NE(refused([](wire::Open& o) { o.epoch = Epoch{2}; }), "");
  EXPECT_NE(refused([](wire::Open& o) { o.fingerprint = 1; }), "");
  EXPECT_NE(refused([](wire::Open& o) { o.numeric_class = "other"; }), "");
  EXPECT_NE(refused([](wire::Open& o) { o.stages[1].node = kX; }), "");
  EXPECT_NE(refused([](wire::Open& o) { o.positions_max = kTestShape.context + 1; }), "");
  // A route that ends at this stage although the model goes on, and one that goes on behind it.
  EXPECT_NE(refused([](wire::Open& o) { o.stages.pop_back(); }).find("ends at layer 4"),
            std::string::npos);
  EXPECT_NE(refused([](wire::Open& o) { o.stages.push_back({kX, {6, 8}}); }), "");
  EXPECT_EQ(b.hop.pages_used(), 0u);
  EXPECT_EQ(refused([](wire::Open&) {}), "");
  EXPECT_NE(refused([](wire::Open&) {}), "") << "opened twice";
  EXPECT_NE(refused([](wire::Open& o) {
              o.sequence = SequenceId{2};
              o.positions_max = 255;
              o.new_tokens_max = 253;
              o.epoch = Epoch{1};
            }),
            "refuses nothing");
}

TEST(HopTest, NamesThePagesThatAreMissing) {
  Stage b(kB, {2, 4});  // 15 pages to give, 4 for a full context
  for (std::uint64_t id = 1; id <= 3; ++id) ASSERT_FALSE(b.open(open_message(id, 2, 254, kX)));
  const std::optional<Error> why = b.open(open_message(4, 2, 254, kX));
  ASSERT_TRUE(why);
  EXPECT_EQ(why->code, Code::kResourceExhausted);
  EXPECT_NE(why->message.find("3 of 15 free"), std::string::npos) << why->message;
}

TEST(HopTest, NumbersThatAreNotFiniteEndTheirSequence) {
  Stage a(kA, {0, 2});
  ASSERT_FALSE(a.open(open_message(1, 3, 4, kX)));
  a.compute.non_finite = true;
  a.hop.on_prompt(kX, {SequenceId{1}, tokens_of(3)});
  ASSERT_TRUE(a.compute.finish_one());
  const auto fails = a.fails(kX);
  ASSERT_EQ(fails.size(), 1u);
  EXPECT_NE(fails[0].why.message.find("non_finite"), std::string::npos);
  EXPECT_TRUE(a.transport.take(kB, wire::FrameType::kStep).empty());
}

TEST(HopTest, UnknownTokensNeverReachTheEngine) {
  Stage a(kA, {0, 2});
  ASSERT_FALSE(a.open(open_message(1, 2, 4, kX)));
  a.hop.on_prompt(kX, {SequenceId{1}, {1, 100}});
  EXPECT_TRUE(a.compute.pending.empty());
  ASSERT_FALSE(a.open(open_message(2, 2, 4, kX)));
  a.hop.on_prompt(kX, {SequenceId{2}, {1, 2}});
  ASSERT_TRUE(a.compute.finish_one());
  a.hop.on_tokens(kC, {{{SequenceId{2}, 2, 5000, wire::Finish::kNone}}});
  EXPECT_TRUE(a.compute.pending.empty());
  EXPECT_EQ(a.fails(kX).size(), 2u);
  EXPECT_EQ(a.hop.sequences(), 0u);
}

TEST(HopTest, SurvivesMessagesBeforeAnythingIsHeld) {
  env::ManualLoop loop;
  CountingRandom random;
  NullEvents events;
  metrics::Registry metrics;
  RecordingTransport transport(kB);
  TestCompute compute;
  env::Env env{loop, loop, loop, random, transport, events, metrics};
  Hop hop(env, compute);
  hop.on_open(kX, open_message(1, 2, 4, kX));
  hop.on_prompt(kX, {SequenceId{1}, tokens_of(2)});
  wire::StepMessage step;
  step.rows.push_back({SequenceId{1}, 0, 1});
  step.hidden = Buffer(kTestShape.row_bytes);
  hop.on_step(kA, std::move(step));
  hop.on_tokens(kC, {{{SequenceId{1}, 2, 3, wire::Finish::kNone}}});
  hop.on_close(kX, {{SequenceId{1}}});
  hop.on_peer_down(kX);
  hop.fail_all(Error(Code::kUnavailable, "drained"));
  EXPECT_TRUE(hop.idle());
}

TEST(HopTest, EndsWhatAnEntryForgets) {
  Stage b(kB, {2, 4});
  ASSERT_FALSE(b.open(open_message(1, 2, 4, kX)));
  b.hop.tick(b.loop.now() + limits::kRequestDeadline);
  EXPECT_EQ(b.hop.sequences(), 1u);
  b.hop.tick(b.loop.now() + limits::kSequenceLifetime);
  EXPECT_EQ(b.hop.sequences(), 0u);
}

// --- faults and figures

TEST(HopTest, AStepThatFailsMayBeTriedAgain) {
  Stage a(kA, {0, 2});
  for (std::uint64_t id : {1u, 2u, 3u}) {
    ASSERT_FALSE(a.open(open_message(id, 3, 4, kX)));
    if (id < 3) a.hop.on_prompt(kX, {SequenceId{id}, tokens_of(3)});
    if (id == 1) a.compute.step_error = Error(Code::kInternal, "the device is gone");
  }
  a.finish_all();
  const auto fails = a.fails(kX);
  ASSERT_EQ(fails.size(), 1u);
  EXPECT_EQ(fails[0].sequences, (std::vector<SequenceId>{SequenceId{2}}));
  EXPECT_TRUE(fails[0].why.retryable);
  EXPECT_EQ(a.hop.sequences(), 2u);
}

TEST(HopTest, CountsStepsRowsAndPages) {
  Stage a(kA, {0, 2});
  ASSERT_FALSE(a.open(open_message(1, 3, 100, kX)));
  ASSERT_FALSE(a.open(open_message(2, 3, 100, kX)));
  a.hop.on_prompt(kX, {SequenceId{1}, tokens_of(3)});
  a.hop.on_prompt(kX, {SequenceId{2}, tokens_of(3)});
  a.finish_all();
  for (std::uint64_t id : {1u, 2u}) a.credit(id, 4, kX);
  a.hop.on_tokens(kC, {{{SequenceId{1}, 3, 5, wire::Finish::kNone},
                        {SequenceId{2}, 3, 5, wire::Finish::kNone}}});
  a.finish_all();
  a.token(1, 4);
  EXPECT_EQ(a.hop.mean_decode_batch(), 2.0);
  const std::string text = a.metrics.render();
  const auto has = [&](const char* line) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\n" << text;
  };
  has("mesh_stage_step_seconds_count{phase=\"prefill\"} 2");
  has("mesh_stage_step_seconds_count{phase=\"decode\"} 1");
  has("mesh_batch_rows_sum 8");
  has("mesh_decode_batch_rows_sum 2");
  has("mesh_pages{state=\"used\"} 4");
  has("mesh_pages{state=\"free\"} 11");
  has("mesh_parked_sequences 1");
  has("mesh_backpressure_total{where=\"reader\"} 1");
}

// 8 streams for 1000 turns: results come after 10 ms, tokens 35 ms later.
void run_ring(Stage& a) {
  constexpr std::uint64_t kStreams = 8;
  struct Token {
    Instant due;
    wire::StepRow row;
  };
  std::deque<Token> ring;
  for (std::uint64_t id = 1; id <= kStreams; ++id) {
    ASSERT_FALSE(a.open(open_message(id, 3, 250, kX)));
    a.hop.on_prompt(kX, {SequenceId{id}, tokens_of(3)});
    a.credit(id, 253, kX);
  }
  a.finish_all();
  a.sent_rows(kB);
  for (std::uint64_t id = 1; id <= kStreams; ++id) a.token(id, 3);
  for (int step = 0; step < 1000; ++step) {
    if (a.compute.pending.empty()) {
      a.loop.advance(milliseconds(1));
    } else {
      a.loop.advance(milliseconds(10));
      a.compute.finish_one();
    }
    for (const wire::StepRow& row : a.sent_rows(kB))
      ring.push_back({a.loop.now() + milliseconds(35), row});
    while (!ring.empty() && ring.front().due <= a.loop.now()) {
      const wire::StepRow row = ring.front().row;
      ring.pop_front();
      a.token(row.sequence.value, row.position + 1);
    }
  }
}

// With all streams in one batch this stage would idle most of the time.
TEST(HopTest, SpreadsStreamsOverTheRing) {
  Stage a(kA, {0, 2}, 100);
  run_ring(a);
  EXPECT_GE(a.hop.micro_batches_max(), 4u);
  EXPECT_LT(a.hop.mean_decode_batch(), 3.0);
  EXPECT_TRUE(a.fails(kX).empty());
  a.hop.on_peer_down(kX);
  a.finish_all();
  EXPECT_EQ(a.hop.micro_batches(), 0u);
}

// Where no stage has cores of its own, batches take turns anyway: all streams share one.
TEST(HopTest, GathersStreamsWhereStagesShareTheirCores) {
  Stage a(kA, {0, 2}, 100);
  a.hop.compute_at_once(1);
  run_ring(a);
  EXPECT_EQ(a.hop.micro_batches_max(), 1u);
  EXPECT_GT(a.hop.mean_decode_batch(), 7.0);
  // A prompt goes in one piece.
  a.hop.on_peer_down(kX);
  a.finish_all();
  ASSERT_FALSE(a.open(open_message(9, 200, 10, kX)));
  a.hop.on_prompt(kX, {SequenceId{9}, std::vector<TokenId>(200, 7)});
  EXPECT_EQ(a.compute.last_job.rows(), 200u);
}

TEST(HopTest, StreamsThatWaitedForABatchRunWhenItIsCancelled) {
  Stage a(kA, {0, 2}, 100);
  a.hop.compute_at_once(1);
  for (std::uint64_t id : {1u, 2u}) {
    ASSERT_FALSE(a.open(open_message(id, 3, 50, kX)));
    a.hop.on_prompt(kX, {SequenceId{id}, tokens_of(3)});
    a.credit(id, 53, kX);
    a.finish_all();
  }
  a.sent_rows(kB);
  a.token(1, 3);
  a.finish_all();
  EXPECT_EQ(a.sent_rows(kB).size(), 1u);  // sequence 1 is on its way
  a.token(2, 3);
  EXPECT_FALSE(a.compute.finish_one());
  a.hop.on_close(kX, {{SequenceId{1}}});
  EXPECT_TRUE(a.compute.finish_one());
  EXPECT_EQ(a.sent_rows(kB).size(), 1u);
}

// What passes between two steps beside computing bounds the rate as well.
TEST(HopTest, SpreadsStreamsOfASmallModelNoFurther) {
  Stage a(kA, {0, 2}, 100);
  a.compute.step_time = milliseconds(1);
  run_ring(a);
  EXPECT_GE(a.hop.micro_batches_max(), 4u);
  EXPECT_GT(a.hop.mean_decode_batch(), 1.2);
}

// So that the stages behind need not wait for the whole of it.
TEST(HopTest, PromptsFlowThroughSeveralStagesInParts) {
  Stage a(kA, {0, 2}, 100);
  ASSERT_FALSE(a.open(open_message(1, 200, 10, kX)));
  a.hop.on_prompt(kX, {SequenceId{1}, std::vector<TokenId>(200, 7)});
  EXPECT_EQ(a.compute.last_job.rows(), limits::kPipelinedChunk);
  ASSERT_TRUE(a.compute.finish_one());
  EXPECT_EQ(a.compute.last_job.rows(), 200 - limits::kPipelinedChunk);
}

// A prompt beside a running generation comes in pieces, without one as a whole.
TEST(HopTest, PromptsDelayRunningStreamsLittle) {
  Stage a(kA, {0, 2}, 100);
  std::uint64_t id = 0;
  const auto prompt = [&](std::uint32_t tokens) {
    ++id;
    EXPECT_FALSE(a.open(open_message(id, tokens, 256 - tokens, kX)));
    a.compute.step_time = milliseconds(tokens == 1 ? 11 : 10 + tokens);
    a.hop.on_prompt(kX, {SequenceId{id}, std::vector<TokenId>(tokens, 7)});
  };
  for (std::uint32_t tokens : {120u, 100u, 50u}) {  // 10 ms and 1 ms per row
    prompt(tokens);
    EXPECT_EQ(a.compute.last_job.rows(), tokens) << "nobody waits for its token";
    a.finish_all();
    a.hop.on_close(kX, {{SequenceId{id}}});
  }
  prompt(3);
  const std::uint64_t stream = id;
  a.finish_all();
  a.credit(stream, 256, kX);
  for (std::uint32_t position = 3; position < 30; ++position) {
    a.compute.step_time = milliseconds(11);
    a.token(stream, position);
    a.finish_all();
  }
  prompt(200);
  EXPECT_LT(a.compute.last_job.rows(), 20u);
  EXPECT_GE(a.compute.last_job.rows(), 1u);
  EXPECT_EQ(a.finish_all(), 200u);
}

}  // namespace
}  // namespace mesh::pipeline
