#include <gtest/gtest.h>

#include "base/limits.h"
#include "base/random.h"
#include "pipeline/hop.h"
#include "pipeline/test_stage.h"

namespace mesh::pipeline {
namespace {

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

}  // namespace
}  // namespace mesh::pipeline
