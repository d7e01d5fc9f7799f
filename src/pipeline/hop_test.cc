#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <numeric>

#include "base/limits.h"
#include "base/random.h"
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
  // Runs what can be run; how many rows that was.
  std::uint64_t finish_all() {
    const std::uint64_t before = hop.rows_computed();
    while (compute.finish_one()) {
    }
    return hop.rows_computed() - before;
  }
  // All rows sent to a peer.
  std::vector<wire::StepRow> sent_rows(PeerId to) {
    std::vector<wire::StepRow> out;
    for (const env::Frame& frame : transport.take(to, wire::FrameType::kStep)) {
      const wire::StepMessage step = wire::decode_step(frame, kTestShape.row_bytes).value();
      out.insert(out.end(), step.rows.begin(), step.rows.end());
    }
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

// --- grants

class ParkingTest : public ::testing::Test {
 protected:
  // A decoding sequence at stage 0 whose prompt of 3 has run.
  void start(std::uint64_t id, std::uint32_t more = 100, std::uint32_t reserved = 0) {
    wire::Open open = open_message(id, 3, more, kX);
    if (reserved > 0) open.positions_max = reserved;
    ASSERT_FALSE(a.open(open));
    a.hop.on_prompt(kX, {SequenceId{id}, tokens_of(3)});
    EXPECT_EQ(a.finish_all(), 3u);
    EXPECT_EQ(a.sent_rows(kB).size(), 3u);
  }
  Stage a{kA, {0, 2}};
};

TEST_F(ParkingTest, WaitsForCreditAndRunsExactlyOnce) {
  start(1);
  a.token(1, 3, 42);
  EXPECT_EQ(a.hop.parked(), 1u);
  EXPECT_EQ(a.finish_all(), 0u) << "OPEN and PROMPT give no credit";
  a.credit(1, 3, kX);
  EXPECT_EQ(a.hop.parked(), 1u);
  a.credit(1, 4, kX);
  a.credit(1, 4, kX);
  EXPECT_EQ(a.hop.parked(), 0u);
  EXPECT_EQ(a.finish_all(), 1u);
  EXPECT_EQ(a.sent_rows(kB), (std::vector<wire::StepRow>{{SequenceId{1}, 3, 42}}));
  a.credit(1, 2, kX);
  a.credit(1, 5, kX);
  a.credit(1, 4, kX);
  a.token(1, 4);
  EXPECT_EQ(a.finish_all(), 1u) << "credit never falls";
}

TEST_F(ParkingTest, WaitsForPagesUntilTheyAreReserved) {
  start(1, 100, 3);
  a.credit(1, 50, kX);
  a.token(1, 3);
  EXPECT_EQ(a.hop.parked(), 1u);
  EXPECT_EQ(a.extend(1, 60, kX).positions_max, 60u);
  EXPECT_EQ(a.hop.parked(), 0u);
  EXPECT_EQ(a.finish_all(), 1u);
}

TEST_F(ParkingTest, NeedsBothInEitherOrder) {
  start(1, 100, 3);
  start(2, 100, 3);
  a.token(1, 3);
  a.token(2, 3);
  EXPECT_EQ(a.hop.parked(), 2u);
  a.credit(1, 50, kX);
  EXPECT_FALSE(a.extend(2, 50, kX).refused);
  EXPECT_EQ(a.hop.parked(), 2u);
  EXPECT_EQ(a.finish_all(), 0u);
  a.credit(2, 50, kX);
  EXPECT_FALSE(a.extend(1, 50, kX).refused);
  EXPECT_EQ(a.hop.parked(), 0u);
  EXPECT_EQ(a.finish_all(), 2u);
}

TEST_F(ParkingTest, BlocksNobodyElse) {
  start(1);
  start(2);
  a.credit(2, 100, kX);
  a.token(1, 3);
  for (std::uint32_t position = 3; position < 9; ++position) {
    a.token(2, position);
    EXPECT_EQ(a.finish_all(), 1u);
  }
  EXPECT_EQ(a.hop.parked(), 1u);
  a.sent_rows(kB);
  start(3);
}

TEST_F(ParkingTest, AParkedSequenceEndsLikeAnyOther) {
  for (std::uint64_t id : {1u, 2u, 3u}) {
    start(id);
    a.token(id, 3);
  }
  EXPECT_EQ(a.hop.parked(), 3u);
  a.hop.on_close(kX, {{SequenceId{1}}});
  EXPECT_EQ(a.hop.parked(), 2u);
  a.token(2, 3);  // a second token for the same place
  ASSERT_EQ(a.fails(kX).size(), 1u);
  EXPECT_EQ(a.hop.parked(), 1u);
  a.credit(1, 50, kX);
  a.credit(2, 50, kX);
  a.hop.on_peer_down(kX);
  EXPECT_EQ(a.hop.parked(), 0u);
  EXPECT_EQ(a.finish_all(), 0u);
  EXPECT_TRUE(a.hop.idle());
}

TEST_F(ParkingTest, OnlyTheEntryGrants) {
  start(1);
  a.token(1, 3);
  a.credit(1, 50, kC);
  a.credit(7, 50, kX);
  a.hop.on_extend(kC, {SequenceId{1}, 200});
  a.hop.on_extend(kX, {SequenceId{7}, 200});
  EXPECT_EQ(a.hop.parked(), 1u);
  EXPECT_TRUE(a.transport.take(kC, wire::FrameType::kOpenReply).empty());
  EXPECT_TRUE(a.transport.take(kX, wire::FrameType::kOpenReply).empty());
  Stage b(kB, {2, 4});
  ASSERT_FALSE(b.open(open_message(1, 2, 4, kX)));
  b.credit(1, 4, kX);
  EXPECT_EQ(b.fails(kX).size(), 1u) << "credit is for stage 0";
  EXPECT_EQ(b.hop.sequences(), 0u);
}

TEST_F(ParkingTest, TokensBeyondTheSequenceEndIt) {
  start(1, 2, 3);
  a.credit(1, 0xFFFFFFFFu, kX);
  ASSERT_FALSE(a.extend(1, kTestShape.context, kX).refused);
  a.token(1, 3);
  a.token(1, 4);
  a.token(1, 5);
  const auto fails = a.fails(kX);
  ASSERT_EQ(fails.size(), 1u);
  EXPECT_EQ(fails[0].why.code, Code::kCorrupt);
  a.finish_all();
  EXPECT_EQ(a.hop.pages_used(), 0u);
}

TEST_F(ParkingTest, TokensBeforeThePromptEndTheSequence) {
  ASSERT_FALSE(a.open(open_message(1, 3, 4, kX)));
  a.token(1, 0);
  EXPECT_EQ(a.fails(kX).size(), 1u);
  EXPECT_EQ(a.finish_all(), 0u);
}

TEST(HopTest, ExtendReservesOrLeavesAllAsItWas) {
  Stage b(kB, {2, 4}, 4);  // 3 pages to give
  wire::Open open = open_message(1, 3, 250, kX);
  open.positions_max = 64;
  ASSERT_FALSE(b.open(open));
  wire::OpenReply reply = b.extend(1, 100, kX);
  EXPECT_FALSE(reply.refused);
  EXPECT_EQ(reply.positions_max, 100u);
  EXPECT_EQ(b.hop.pages_used(), 2u);
  reply = b.extend(1, 50, kX);
  EXPECT_FALSE(reply.refused);
  EXPECT_EQ(reply.positions_max, 100u) << "never less";
  reply = b.extend(1, 250, kX);
  ASSERT_TRUE(reply.refused);
  EXPECT_EQ(reply.refused->code, Code::kResourceExhausted);
  EXPECT_EQ(reply.positions_max, 100u);
  EXPECT_EQ(b.hop.pages_used(), 2u);
  EXPECT_EQ(b.hop.sequences(), 1u);
  b.hop.on_extend(kX, {SequenceId{1}, kTestShape.context + 1});
  EXPECT_EQ(b.fails(kX).size(), 1u) << "an impossible wish ends the sequence";
  EXPECT_EQ(b.hop.pages_used(), 0u);
}

// The entry's EXTEND to a later stage may be slower than the row that it allows.
TEST(HopTest, ALaterStageReservesForRowsThatOvertakeExtend) {
  Stage b(kB, {2, 4}, 4);
  wire::Open open = open_message(1, 2, 200, kX);
  open.positions_max = 2;
  ASSERT_FALSE(b.open(open));
  b.hop.on_step(kA, b.rows(1, 0, 2));
  b.finish_all();
  b.hop.on_step(kA, b.rows(1, 2, 1));
  EXPECT_EQ(b.finish_all(), 1u);
  EXPECT_EQ(b.extend(1, 64, kX).positions_max, 64u);
  b.hop.on_step(kA, b.rows(1, 3, 189));
  EXPECT_EQ(b.finish_all(), 189u);
  EXPECT_EQ(b.hop.pages_used(), 3u);
  b.hop.on_step(kA, b.rows(1, 192, 1));
  const auto fails = b.fails(kX);
  ASSERT_EQ(fails.size(), 1u);
  EXPECT_EQ(fails[0].why.code, Code::kResourceExhausted);
  EXPECT_TRUE(fails[0].why.retryable);
}

TEST(HopTest, RefusesLengthsThatMakeNoSense) {
  Stage c(kC, {4, 6});
  const auto refused = [&](auto&& change) {
    wire::Open open = open_message(1, 4, 4, kX);
    change(open);
    c.hop.on_open(kX, open);
    const bool no = c.reply(kX).refused.has_value();
    c.hop.on_close(kX, {{SequenceId{1}}});
    return no;
  };
  EXPECT_FALSE(refused([](wire::Open&) {}));
  EXPECT_TRUE(refused([](wire::Open& o) { o.prompt_tokens = 0; }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.replayed = 4; }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.replayed = 0xFFFFFFFFu; }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.positions_max = 3; }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.stages.clear(); }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.sampling.prompt_logprobs = true; }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.sampling.repetition_penalty = 2; }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.prompt_ids = {1, 2, 3, 4, 5}; }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.prompt_ids = {100}; }));
  EXPECT_TRUE(refused([](wire::Open& o) { o.sampling.logit_bias = {{-1, 1.0f}}; }));
  EXPECT_TRUE(refused([](wire::Open& o) {
    o.sampling.presence_penalty = 1;
    o.replayed = 2;
  }));
  EXPECT_FALSE(refused([](wire::Open& o) {
    o.sampling.presence_penalty = 1;
    o.replayed = 2;
    o.replayed_ids = {1, 1};
  }));
  EXPECT_EQ(c.hop.pages_used(), 0u);
}

// --- prompt rows

TEST(PromptRows, WaitForTheNextStageWhileDecodesRun) {
  Stage a(kA, {0, 2}, 100);
  ASSERT_FALSE(a.open(open_message(9, 3, 100, kX)));
  a.hop.on_prompt(kX, {SequenceId{9}, tokens_of(3)});
  a.credit(9, 200, kX);
  a.finish_all();
  a.hop.on_rows_done(kB, {3});
  std::vector<TokenId> prompt(250, 7);
  for (std::uint64_t id = 1; id <= 6; ++id) {
    ASSERT_FALSE(a.open(open_message(id, 250, 4, kX)));
    a.hop.on_prompt(kX, {SequenceId{id}, prompt});
  }
  EXPECT_EQ(a.finish_all(), 1024u);
  EXPECT_EQ(a.hop.prompt_room(kB), 0u);
  for (std::uint32_t position = 3; position < 6; ++position) {
    a.token(9, position);
    EXPECT_EQ(a.finish_all(), 1u);
  }
  a.hop.on_rows_done(kC, {500});
  EXPECT_EQ(a.finish_all(), 0u) << "another peer's word";
  a.hop.on_rows_done(kB, {64});
  EXPECT_EQ(a.finish_all(), 64u);
  a.hop.on_rows_done(kB, {0xFFFFFFFFu});
  EXPECT_EQ(a.finish_all(), 6 * 250u - 1024u - 64u);
  EXPECT_EQ(a.metrics.counter("mesh_backpressure_total", "", {{"where", "prompt_rows"}}).value(),
            2);
}

TEST(PromptRows, ALostLinkStartsAgainFromNothing) {
  Stage a(kA, {0, 2}, 100);
  for (std::uint64_t id = 1; id <= 6; ++id) {
    ASSERT_FALSE(a.open(open_message(id, 250, 4, kX)));
    a.hop.on_prompt(kX, {SequenceId{id}, std::vector<TokenId>(250, 7)});
  }
  a.finish_all();
  EXPECT_EQ(a.hop.prompt_room(kB), 0u);
  a.hop.on_peer_down(kB);
  EXPECT_GT(a.hop.prompt_room(kB), 0u);
  EXPECT_EQ(a.finish_all(), 6 * 250u - 1024u);
}

TEST(PromptRows, AreAcknowledgedTogether) {
  Stage b(kB, {2, 4}, 100);
  for (std::uint64_t id = 1; id <= 3; ++id) ASSERT_FALSE(b.open(open_message(id, 200, 4, kX)));
  b.hop.on_step(kA, b.rows(1, 0, 200));
  b.hop.on_step(kA, b.rows(2, 0, 200));
  b.hop.on_step(kA, b.rows(3, 0, 200));
  ASSERT_TRUE(b.compute.finish_one());
  EXPECT_EQ(b.rows_done(kA), (std::vector<std::uint32_t>{200}));
  ASSERT_TRUE(b.compute.finish_one());
  EXPECT_EQ(b.rows_done(kA), (std::vector<std::uint32_t>{400}));
  b.hop.on_step(kA, b.rows(1, 200, 1));
  b.finish_all();
  EXPECT_TRUE(b.rows_done(kA).empty()) << "decode rows are not counted";
}

TEST(PromptRows, OfSequencesThatEndAreAcknowledgedToo) {
  Stage b(kB, {2, 4}, 100);
  for (std::uint64_t id = 1; id <= 3; ++id) ASSERT_FALSE(b.open(open_message(id, 200, 4, kX)));
  b.hop.on_step(kA, b.rows(1, 0, 100));  // runs at once
  b.hop.on_step(kA, b.rows(1, 100, 50));
  b.hop.on_step(kA, b.rows(2, 0, 70));
  b.hop.on_close(kX, {{SequenceId{1}, SequenceId{2}}});
  EXPECT_EQ(b.rows_done(kA), (std::vector<std::uint32_t>{70})) << "of 1, which is in flight, later";
  b.hop.on_step(kA, b.rows(1, 150, 10));  // on its way meanwhile
  ASSERT_TRUE(b.compute.finish_one());
  std::uint32_t told = 0;
  for (std::uint32_t rows : b.rows_done(kA)) told += rows;
  EXPECT_EQ(told, 160u);
  b.hop.on_step(kA, b.rows(1, 199, 2));  // a row of the prompt and one of the answer
  EXPECT_EQ(b.rows_done(kA), (std::vector<std::uint32_t>{1}));
  b.hop.on_step(kA, b.rows(2, 200, 1));
  EXPECT_TRUE(b.rows_done(kA).empty());
  b.hop.on_step(kA, b.rows(3, 5, 30));  // ends it
  EXPECT_EQ(b.rows_done(kA), (std::vector<std::uint32_t>{30}));
  EXPECT_EQ(b.hop.sequences(), 0u);
}

// Two stages and their links, sequences that come, end early, fail or run to their end: no row
// beyond the window is ever on its way, and in the end nobody is owed anything.
TEST(PromptRows, RandomTrafficLeaksNoWindowAndNoPages) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Prng random(seed);
    Stage a(kA, {0, 2}, 200), b(kB, {2, 4}, 200);
    std::uint64_t next = 1;
    std::vector<SequenceId> open;
    const auto deliver = [&] {
      if (a.transport.sent.empty() && b.transport.sent.empty()) return;
      Stage& from =
          b.transport.sent.empty() || (!a.transport.sent.empty() && random.below(2) == 0) ? a : b;
      auto [to, frame] = std::move(from.transport.sent.front());
      from.transport.sent.erase(from.transport.sent.begin());
      if (to == kB && frame.type == static_cast<std::uint8_t>(wire::FrameType::kStep))
        b.hop.on_step(kA, wire::decode_step(frame, kTestShape.row_bytes).value());
      if (to == kA && frame.type == static_cast<std::uint8_t>(wire::FrameType::kRowsDone))
        a.hop.on_rows_done(kB, wire::decode_rows_done(frame).value());
      if (to == kC) {  // which computes at once
        const wire::StepMessage rows = wire::decode_step(frame, kTestShape.row_bytes).value();
        b.hop.on_rows_done(kC, {static_cast<std::uint32_t>(rows.rows.size())});
      }
    };
    for (int step = 0; step < 2000; ++step) {
      const auto what = random.below(10);
      if (what == 0 && open.size() < 30) {
        const auto prompt = static_cast<std::uint32_t>(1 + random.below(240));
        const wire::Open message = open_message(next, prompt, 10, kX);
        open.push_back(SequenceId{next++});
        a.hop.on_open(kX, message);
        b.hop.on_open(kX, message);
        a.hop.on_prompt(kX, {message.sequence, std::vector<TokenId>(prompt, 7)});
      } else if (what == 1 && !open.empty()) {
        const std::size_t which = random.below(open.size());
        if (random.below(2) == 0) a.hop.on_close(kX, {{open[which]}});
        b.hop.on_close(kX, {{open[which]}});
        if (random.below(2) == 0) a.hop.on_close(kX, {{open[which]}});
        open.erase(open.begin() + static_cast<std::ptrdiff_t>(which));
      } else if (what == 2 && random.below(8) == 0) {
        (random.below(2) == 0 ? a : b).compute.step_error = Error(Code::kInternal, "no");
      } else if (what < 5) {
        (random.below(2) == 0 ? a : b).compute.finish_one();
      } else {
        deliver();
      }
      ASSERT_LE(a.hop.prompt_room(kB), limits::kPromptRowsAhead);
    }
    for (int round = 0; round < 4000; ++round) {
      a.compute.finish_one();
      b.compute.finish_one();
      deliver();
    }
    EXPECT_EQ(a.hop.waiting_rows(), 0u);
    EXPECT_EQ(a.hop.prompt_room(kB), limits::kPromptRowsAhead);
    a.hop.fail_all(Error(Code::kUnavailable, "the end"));
    b.hop.fail_all(Error(Code::kUnavailable, "the end"));
    EXPECT_EQ(a.hop.pages_used() + b.hop.pages_used(), 0u);
  }
}

// --- the answer

TEST(AnswerTest, CountsFromTheEndOfThePromptAlsoInAReplay) {
  Stage c(kC, {4, 6});
  wire::Open open = open_message(1, 3, 4, kX);
  open.replayed = 2;
  open.sampling.min_tokens = 3;
  open.sampling.stop_ids = {15, 16, 5000};
  ASSERT_FALSE(c.open(open));
  c.hop.on_step(kB, c.rows(1, 0, 4));
  c.finish_all();
  EXPECT_TRUE(c.transport.take(kX, wire::FrameType::kTokens).empty()) << "a replayed token";
  c.hop.on_step(kB, c.rows(1, 4, 1));
  c.finish_all();
  const engine::SampleSpec& spec = c.compute.last_job.sampling.at(0);
  EXPECT_EQ(spec.position, 5u);
  EXPECT_EQ(spec.drawn, 2u);
  EXPECT_EQ(spec.params->stop_ids, (std::vector<TokenId>{15, 16})) << "as far as they exist";
  EXPECT_EQ(spec.history, nullptr);
  auto frames = c.transport.take(kX, wire::FrameType::kTokens);
  ASSERT_EQ(frames.size(), 1u);
  // 14, the third token.
  EXPECT_EQ(wire::decode_tokens(frames[0])->rows[0],
            (wire::TokenRow{SequenceId{1}, 5, 14, wire::Finish::kNone}));
  c.hop.on_step(kB, c.rows(1, 5, 1));
  c.finish_all();
  frames = c.transport.take(kX, wire::FrameType::kTokens);
  EXPECT_EQ(wire::decode_tokens(frames.at(0))->rows[0].finish, wire::Finish::kStop);
}

TEST(AnswerTest, EndsWithLengthWhereAReplayWouldToo) {
  Stage c(kC, {4, 6});
  wire::Open open = open_message(1, 3, 3, kX);
  open.replayed = 2;
  ASSERT_FALSE(c.open(open));
  c.hop.on_step(kB, c.rows(1, 0, 5));
  c.finish_all();
  EXPECT_EQ(
      wire::decode_tokens(c.transport.take(kX, wire::FrameType::kTokens).at(0))->rows[0].finish,
      wire::Finish::kLength);
}

TEST(AnswerTest, KeepsAHistoryWhenTokensArePenalised) {
  Stage c(kC, {4, 6});
  wire::Open open = open_message(1, 3, 10, kX);
  open.sampling.repetition_penalty = 1.5f;
  open.prompt_ids = {9, 4, 9};
  open.replayed = 2;
  open.replayed_ids = {7, 7};
  ASSERT_FALSE(c.open(open));
  c.hop.on_step(kB, c.rows(1, 0, 5));
  const std::shared_ptr<const engine::TokenHistory> history =
      c.compute.last_job.sampling.at(0).history;
  ASSERT_NE(history, nullptr);
  EXPECT_EQ(history->prompt, (std::vector<TokenId>{4, 9}));
  EXPECT_EQ(history->output, (std::map<TokenId, std::uint32_t>{{7, 2}}));
  c.finish_all();
  EXPECT_EQ(history->output, (std::map<TokenId, std::uint32_t>{{7, 2}, {14, 1}}));
  c.hop.on_step(kB, c.rows(1, 5, 1));
  EXPECT_EQ(history->output.size(), 2u) << "not while a step reads it";
  c.hop.on_close(kX, {{SequenceId{1}}});
  c.finish_all();
  EXPECT_EQ(history->output.size(), 2u);
}

TEST(AnswerTest, ScoresThePromptBeforeItsTokens) {
  Stage c(kC, {4, 6});
  wire::Open open = open_message(1, 4, 10, kX);
  open.sampling.prompt_logprobs = true;
  open.sampling.logprobs = 2;
  open.prompt_ids = {21, 22, 23, 24};
  open.page_keys.clear();
  ASSERT_FALSE(c.open(open));
  c.hop.on_step(kB, c.rows(1, 0, 3));
  EXPECT_EQ(c.compute.last_job.sample_rows, (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(c.compute.last_job.sampling.at(2).given, 24);
  EXPECT_EQ(c.compute.last_job.sampling.at(2).position, 3u);
  c.finish_all();
  c.hop.on_step(kB, c.rows(1, 3, 1));
  EXPECT_FALSE(c.compute.last_job.sampling.at(0).given);
  c.finish_all();
  EXPECT_TRUE(c.transport.take(kA, wire::FrameType::kScores).empty());
  std::vector<std::uint8_t> order;
  for (const auto& [to, frame] : c.transport.sent)
    if (to == kX) order.push_back(frame.type);
  EXPECT_EQ(order, (std::vector<std::uint8_t>{26, 20}));
  const auto scores = c.transport.take(kX, wire::FrameType::kScores);
  const wire::Scores told = wire::decode_scores(scores.at(0)).value();
  ASSERT_EQ(told.rows.size(), 3u);
  EXPECT_EQ(told.rows[0].position, 1u);
  EXPECT_EQ(told.rows[0].token, 22);
  EXPECT_EQ(told.rows[0].logprob, -0.5f);
  EXPECT_EQ(told.rows[2].top.size(), 2u);
  // The token's log-probabilities are the entry's alone.
  EXPECT_EQ(
      wire::decode_tokens(c.transport.take(kX, wire::FrameType::kTokens).at(0))->rows[0].top.size(),
      2u);
  const wire::Tokens bare =
      wire::decode_tokens(c.transport.take(kA, wire::FrameType::kTokens).at(0)).value();
  EXPECT_TRUE(bare.rows[0].top.empty());
  EXPECT_EQ(bare.rows[0].logprob, 0.0f);
}

// --- reuse of prefixes

wire::Open keyed_open(std::uint64_t id, const std::vector<TokenId>& prompt) {
  wire::Open open = open_message(id, static_cast<std::uint32_t>(prompt.size()), 4, kX);
  const std::size_t pages = (prompt.size() - 1) / kvcache::kPagePositions;
  for (const kvcache::PageKey& key : kvcache::page_keys(prompt, pages))
    open.page_keys.push_back(kvcache::key_bytes(key));
  return open;
}

class PrefixTest : public ::testing::Test {
 protected:
  PrefixTest() {
    a.hop.on_open(kX, keyed_open(1, prompt));
    EXPECT_EQ(a.reply(kX).cached, 0u);
    a.hop.on_prompt(kX, {SequenceId{1}, prompt});
    EXPECT_EQ(a.finish_all(), 200u);
    a.hop.on_close(kX, {{SequenceId{1}}});
    EXPECT_EQ(a.hop.pages_used(), 0u);
    a.sent_rows(kB);
  }
  std::vector<TokenId> from(std::uint32_t first) const {
    return {prompt.begin() + first, prompt.end()};
  }
  std::vector<TokenId> prompt = std::vector<TokenId>(200, 7);
  Stage a{kA, {0, 2}};
};

TEST_F(PrefixTest, RowsThatAreHeldAreNotComputedAgain) {
  a.hop.on_open(kX, keyed_open(2, prompt));
  EXPECT_EQ(a.reply(kX).cached, 192u);
  a.hop.on_prompt(kX, {SequenceId{2}, from(192), 192});
  EXPECT_EQ(a.finish_all(), 8u);
  EXPECT_EQ(a.hop.prefix_hits(), 192u);
  EXPECT_EQ(a.sent_rows(kB).front().position, 192u);
  EXPECT_EQ(a.metrics.counter("mesh_prefix_cache_queries_total", "").value(), 400);
}

TEST_F(PrefixTest, AStageThatHoldsMoreThanTheOthersStartsWhereTheyDo) {
  a.hop.on_open(kX, keyed_open(2, prompt));
  EXPECT_EQ(a.reply(kX).cached, 192u);
  a.hop.on_prompt(kX, {SequenceId{2}, from(64), 64});
  EXPECT_EQ(a.finish_all(), 136u);
  EXPECT_EQ(a.hop.prefix_hits(), 64u);
}

TEST_F(PrefixTest, PositionsThatWereNotOfferedEndTheSequence) {
  std::uint64_t id = 1;
  for (std::uint32_t first : {1u, 65u, 193u, 200u, 256u, 0xFFFFFFC0u}) {
    a.hop.on_open(kX, keyed_open(++id, prompt));
    EXPECT_EQ(a.reply(kX).cached, 192u);
    const std::vector<TokenId> tokens = first < 200 ? from(first) : std::vector<TokenId>(1, 7);
    a.hop.on_prompt(kX, {SequenceId{id}, tokens, first});
    EXPECT_EQ(a.fails(kX).size(), 1u) << first;
  }
  std::vector<TokenId> other = prompt;
  other[70] = 8;
  a.hop.on_open(kX, keyed_open(++id, other));
  EXPECT_EQ(a.reply(kX).cached, 64u);
  a.hop.on_prompt(kX, {SequenceId{id}, from(128), 128});
  EXPECT_EQ(a.fails(kX).size(), 1u);
  EXPECT_EQ(a.finish_all(), 0u);
  EXPECT_EQ(a.hop.pages_used(), 0u);
}

TEST_F(PrefixTest, KeysOfAnyLengthAndScoredPromptsMatchNothing) {
  wire::Open open = keyed_open(2, prompt);
  open.page_keys.assign(3, "short");
  a.hop.on_open(kX, open);
  EXPECT_EQ(a.reply(kX).cached, 0u);
  open = keyed_open(3, prompt);
  open.sampling.prompt_logprobs = true;
  a.hop.on_open(kX, open);
  EXPECT_EQ(a.reply(kX).cached, 0u) << "every row is wanted";
  open = keyed_open(4, std::vector<TokenId>(100, 7));
  open.page_keys = keyed_open(5, prompt).page_keys;
  a.hop.on_open(kX, open);
  EXPECT_EQ(a.reply(kX).cached, 64u) << "one row is always computed";
}

TEST(HopTest, ALaterStageStartsWhereItsFirstRowIs) {
  Stage b(kB, {2, 4});
  const std::vector<TokenId> prompt(200, 5);
  const auto opened = [&](std::uint64_t id) {
    b.hop.on_open(kX, keyed_open(id, prompt));
    return b.reply(kX).cached;
  };
  EXPECT_EQ(opened(1), 0u);
  b.hop.on_step(kA, b.rows(1, 0, 200));
  b.finish_all();
  b.hop.on_close(kX, {{SequenceId{1}}});
  EXPECT_EQ(opened(2), 192u);
  b.hop.on_step(kA, b.rows(2, 128, 72));
  EXPECT_EQ(b.finish_all(), 72u);
  EXPECT_TRUE(b.fails(kX).empty());
  b.rows_done(kA);
  for (std::uint32_t first : {65u, 256u, 199u}) {
    EXPECT_EQ(opened(3), 192u);
    b.hop.on_step(kA, b.rows(3, first, 1));
    EXPECT_EQ(b.fails(kX).size(), 1u) << first;
  }
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

}  // namespace
}  // namespace mesh::pipeline
