#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <numeric>

#include "base/limits.h"
#include "pipeline/hop.h"
#include "pipeline/test_compute.h"

namespace mesh::pipeline {
namespace {

const PeerId kA = test_peer('a'), kB = test_peer('b'), kC = test_peer('c'), kX = test_peer('x');
const std::vector<wire::StageAssignment> kRoute = {{kA, {0, 2}}, {kB, {2, 4}}, {kC, {4, 6}}};
constexpr std::uint64_t kPrint = 77;

wire::Open open_message(std::uint64_t id, std::uint32_t prompt, std::uint32_t more, PeerId entry) {
  wire::Open open;
  open.sequence = SequenceId{id};
  open.entry = entry;
  open.epoch = Epoch{1};
  open.fingerprint = kPrint;
  open.numeric_class = "n1";
  open.stages = kRoute;
  open.prompt_tokens = prompt;
  open.new_tokens_max = more;
  open.positions_max = prompt + more;
  open.sampling.stop_ids = {99};
  return open;
}

std::vector<TokenId> tokens_of(std::size_t count) {
  std::vector<TokenId> out(count);
  std::iota(out.begin(), out.end(), 1);
  return out;
}

// A stage of kRoute on node `self`.
class Stage {
 public:
  Stage(PeerId self, LayerRange layers, std::uint32_t pages = 16)
      : transport(self),
        env{loop, loop, loop, random, transport, events, metrics},
        hop(env, compute) {
    compute.held = layers;
    compute.pages = pages;
    hop.hold({Epoch{1}, layers, kPrint, "n1", compute.pages});
  }
  // The one answer to an OPEN or EXTEND.
  wire::OpenReply reply(PeerId entry) {
    const auto replies = transport.take(entry, wire::FrameType::kOpenReply);
    EXPECT_EQ(replies.size(), 1u);
    if (replies.empty()) return {};
    return wire::decode_open_reply(replies.at(0)).value();
  }
  // What OPEN was answered with; empty: accepted.
  std::optional<Error> open(const wire::Open& message) {
    hop.on_open(message.entry, message);
    return reply(message.entry).refused;
  }
  wire::OpenReply extend(std::uint64_t id, std::uint32_t positions, PeerId entry) {
    hop.on_extend(entry, {SequenceId{id}, positions});
    return reply(entry);
  }
  void credit(std::uint64_t id, std::uint32_t positions, PeerId entry) {
    hop.on_credit(entry, {SequenceId{id}, positions});
  }
  void token(std::uint64_t id, std::uint32_t position, TokenId token = 5) {
    hop.on_tokens(kC, {{{SequenceId{id}, position, token, wire::Finish::kNone}}});
  }
  // Runs what can be run.
  std::size_t finish_all() {
    const std::size_t before = compute.rows;
    while (compute.finish_one()) {
    }
    return compute.rows - before;
  }
  // All rows sent to a peer.
  std::vector<wire::StepRow> sent_rows(PeerId to) {
    std::vector<wire::StepRow> out;
    for (const env::Frame& frame : transport.take(to, wire::FrameType::kStep))
      for (const wire::StepRow& row : wire::decode_step(frame, kTestShape.row_bytes)->rows)
        out.push_back(row);
    return out;
  }
  // What ROWS_DONE told a peer, each message.
  std::vector<std::uint32_t> rows_done(PeerId to) {
    std::vector<std::uint32_t> out;
    for (const env::Frame& frame : transport.take(to, wire::FrameType::kRowsDone))
      out.push_back(wire::decode_rows_done(frame)->rows);
    return out;
  }
  // Failures told to the entry.
  std::vector<wire::Fail> fails(PeerId entry) {
    std::vector<wire::Fail> out;
    for (const env::Frame& frame : transport.take(entry, wire::FrameType::kFail))
      out.push_back(wire::decode_fail(frame).value());
    return out;
  }
  wire::StepMessage rows(std::uint64_t id, std::uint32_t first, std::uint32_t count) const {
    wire::StepMessage step;
    step.route = wire::route_handle(Epoch{1}, kRoute);
    for (std::uint32_t i = 0; i < count; ++i) step.rows.push_back({SequenceId{id}, first + i, 5});
    step.hidden = Buffer(count * kTestShape.row_bytes);
    return step;
  }

  env::ManualLoop loop;
  CountingRandom random;
  NullEvents events;
  metrics::Registry metrics;
  RecordingTransport transport;
  TestCompute compute;
  env::Env env;
  Hop hop;
};

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

}  // namespace
}  // namespace mesh::pipeline
