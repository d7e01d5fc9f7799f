#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "pipeline/hop.h"
#include "pipeline/test_stage.h"

namespace mesh::pipeline {
namespace {

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

}  // namespace
}  // namespace mesh::pipeline
