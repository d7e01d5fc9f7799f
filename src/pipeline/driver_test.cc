#include "pipeline/driver.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>

#include "base/limits.h"
#include "pipeline/test_compute.h"

namespace mesh::pipeline {
namespace {

using wire::FrameType;

const PeerId kA = test_peer('a'), kB = test_peer('b'), kC = test_peer('c'), kX = test_peer('x');
const std::vector<wire::StageAssignment> kRoute = {{kA, {0, 2}}, {kB, {2, 4}}, {kC, {4, 6}}};
constexpr std::uint64_t kPrint = 77;
const Error kNoPages(Code::kResourceExhausted, "no pages", true);

std::vector<TokenId> tokens_of(std::size_t count) {
  std::vector<TokenId> out(count);
  std::iota(out.begin(), out.end(), 1);
  return out;
}

class FullSink : public RecordingSink {
 public:
  void cached(std::uint32_t positions) override { hits.push_back(positions); }
  void prompt_scores(std::vector<SampledToken> part) override {
    scores.insert(scores.end(), part.begin(), part.end());
  }
  std::vector<std::uint32_t> hits;
  std::vector<SampledToken> scores;
};

class DriverTest : public ::testing::Test {
 protected:
  SequenceId start(std::size_t prompt = 2, std::uint32_t more = 3, SamplingParams sampling = {}) {
    GenerateParams params;
    params.prompt = tokens_of(prompt);
    params.new_tokens_max = more;
    params.sampling = std::move(sampling);
    const SequenceId id = driver->start(std::move(params), sink);
    EXPECT_EQ(sink->ends, 0);
    loop.run_ready();
    return id;
  }
  // The OPENs that a stage has got since the last look.
  std::vector<wire::Open> opens(PeerId peer = kC) {
    std::vector<wire::Open> out;
    for (const env::Frame& frame : transport.take(peer, FrameType::kOpen))
      out.push_back(wire::decode_open(frame).value());
    return out;
  }
  // Its wire id, from the newest OPEN.
  SequenceId life() {
    const std::vector<wire::Open> all = opens();
    EXPECT_FALSE(all.empty());
    return all.empty() ? SequenceId{} : all.back().sequence;
  }
  void accept(SequenceId life, std::uint32_t cached = 0, std::uint32_t positions_max = 0) {
    for (PeerId peer : {kA, kB, kC})
      driver->on_open_reply(peer, {life, std::nullopt, cached, positions_max});
  }
  SequenceId running(std::size_t prompt = 2, std::uint32_t more = 3, SamplingParams sampling = {}) {
    handle = start(prompt, more, std::move(sampling));
    const SequenceId id = life();
    accept(id);
    EXPECT_EQ(sink->admissions, 1);
    return id;
  }
  // A stage refuses more pages; the others give them.
  void refuse_extend(SequenceId life, std::uint32_t positions, PeerId from = kB) {
    driver->on_open_reply(from, {life, kNoPages, 0, positions});
  }
  void token(SequenceId id, std::uint32_t position, TokenId token,
             wire::Finish finish = wire::Finish::kNone, PeerId from = kC) {
    driver->on_tokens(from, {{{id, position, token, finish}}});
  }
  void tokens(SequenceId id, std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t at = begin; at < end; ++at) token(id, at, static_cast<TokenId>(at));
  }
  std::vector<std::uint32_t> credits() {
    std::vector<std::uint32_t> out;
    for (const env::Frame& frame : transport.take(kA, FrameType::kCredit))
      out.push_back(wire::decode_credit(frame).value().positions);
    return out;
  }
  std::vector<std::uint32_t> extends(PeerId peer) {
    std::vector<std::uint32_t> out;
    for (const env::Frame& frame : transport.take(peer, FrameType::kExtend))
      out.push_back(wire::decode_extend(frame).value().positions_max);
    return out;
  }
  std::vector<wire::Prompt> prompts() {
    std::vector<wire::Prompt> out;
    for (const env::Frame& frame : transport.take(kA, FrameType::kPrompt))
      out.push_back(wire::decode_prompt(frame).value());
    return out;
  }
  std::size_t closes() {
    std::size_t count = 0;
    for (PeerId peer : {kA, kB, kC}) count += transport.take(peer, FrameType::kClose).size();
    return count;
  }
  // Time passes, and the node ticks.
  void pass(Duration time) {
    for (const Instant end = loop.now() + time; loop.now() < end;) {
      loop.advance(std::min(milliseconds(100), end - loop.now()));
      driver->tick(loop.now());
    }
  }
  double counter(const char* name, const metrics::Labels& labels = {}) {
    return metrics.counter(name, "", labels).value();
  }

  env::ManualLoop loop;
  CountingRandom random;
  NullEvents events;
  metrics::Registry metrics;
  RecordingTransport transport{kX};
  env::Env env{loop, loop, loop, random, transport, events, metrics};
  std::optional<Error> no_route;
  std::unique_ptr<Driver> driver = make();
  std::shared_ptr<FullSink> sink = std::make_shared<FullSink>();
  SequenceId handle;

  std::unique_ptr<Driver> make(DriverOptions options = {}) {
    return std::make_unique<Driver>(
        env,
        [this]() -> Result<RouteChoice> {
          if (no_route) return *no_route;
          return RouteChoice{Epoch{1}, kPrint, "n1", kRoute};
        },
        options);
  }
};

// --- one life

TEST_F(DriverTest, DeliversTokensInOrderAndEndsEverywhere) {
  const SequenceId id = running();
  EXPECT_EQ(transport.take(kA, FrameType::kPrompt).size(), 1u);
  EXPECT_EQ(driver->running(), 1u);
  EXPECT_EQ(driver->waiting(), 0u);
  token(id, 2, 7);
  token(id, 3, 8);
  token(id, 4, 9, wire::Finish::kLength);
  EXPECT_EQ(sink->tokens, (std::vector<TokenId>{7, 8, 9}));
  EXPECT_EQ(sink->finish, wire::Finish::kLength);
  EXPECT_EQ(sink->ends, 1);
  EXPECT_EQ(closes(), 3u);
  EXPECT_EQ(driver->running(), 0u);
  token(id, 5, 9);
  EXPECT_EQ(sink->tokens.size(), 3u);
}

TEST_F(DriverTest, StopTokenIsNotDelivered) {
  const SequenceId id = running();
  token(id, 2, 99, wire::Finish::kStop);
  EXPECT_TRUE(sink->tokens.empty());
  EXPECT_EQ(sink->finish, wire::Finish::kStop);
}

TEST_F(DriverTest, WrongPositionFailsAndWrongSenderIsIgnored) {
  const SequenceId id = running();
  token(id, 2, 7, wire::Finish::kNone, kB);
  EXPECT_TRUE(sink->tokens.empty());
  token(id, 3, 7);
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, Code::kCorrupt);
  EXPECT_EQ(closes(), 3u);
}

TEST_F(DriverTest, MoreTokensThanAskedForFail) {
  const SequenceId id = running();
  for (std::uint32_t i = 0; i < 4; ++i) token(id, 2 + i, 7);
  EXPECT_EQ(sink->tokens.size(), 3u);
  ASSERT_TRUE(sink->error);
}

TEST_F(DriverTest, DeadlinesNameWhoIsSilent) {
  start();
  driver->on_open_reply(kA, {life(), std::nullopt});
  driver->tick(loop.now() + limits::kOpenDeadline - milliseconds(1));
  EXPECT_EQ(sink->ends, 0);
  driver->tick(loop.now() + limits::kOpenDeadline);
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, Code::kDeadlineExceeded);
  EXPECT_EQ(sink->error->message.find(kA.short_name()), std::string::npos);
  EXPECT_NE(sink->error->message.find(kB.short_name()), std::string::npos);
}

TEST_F(DriverTest, ARunningRequestHasADeadlineToo) {
  running();
  driver->tick(loop.now() + limits::kRequestDeadline);
  EXPECT_EQ(sink->error->code, Code::kDeadlineExceeded);
}

TEST_F(DriverTest, SinksMayCancelWhateverTheyAreToldOf) {
  const SequenceId id = running();
  sink->on_token = [&] { driver->cancel(handle); };
  token(id, 2, 7, wire::Finish::kLength);
  EXPECT_EQ(sink->tokens.size(), 1u);
  EXPECT_EQ(sink->ends, 0);
  EXPECT_EQ(closes(), 3u);
  // One failing request cancels another that fails in the same sweep.
  std::vector<SequenceId> ids;
  auto first = std::make_shared<FullSink>();
  sink = first;
  ids.push_back(start());
  auto second = std::make_shared<FullSink>();
  sink = second;
  ids.push_back(start());
  const auto cancel_all = [&] {
    for (SequenceId one : ids) driver->cancel(one);
  };
  first->on_failed = second->on_failed = cancel_all;
  driver->tick(loop.now() + limits::kOpenDeadline);
  EXPECT_EQ(first->ends + second->ends, 1);
  EXPECT_EQ(driver->running() + driver->waiting(), 0u);
}

TEST_F(DriverTest, ALostStageEndsItsRequests) {
  running();
  driver->on_peer_down(test_peer('y'), Error(Code::kUnavailable, "silent"));
  EXPECT_EQ(sink->ends, 0);
  driver->on_peer_down(kB, Error(Code::kUnavailable, "silent"));
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, Code::kUnavailable);
  EXPECT_NE(sink->error->message.find("2:4"), std::string::npos);
}

TEST_F(DriverTest, FailuresCountOnlyFromTheRoute) {
  const SequenceId id = running();
  driver->on_fail(test_peer('y'), {{id}, Error(Code::kInternal, "no")});
  EXPECT_EQ(sink->ends, 0);
  driver->on_fail(kB, {{id, SequenceId{5}}, Error(Code::kInternal, "non_finite")});
  EXPECT_EQ(sink->error->message, "non_finite");
}

TEST_F(DriverTest, MayBeDestroyedBeforeAStartHasRun) {
  GenerateParams params;
  params.prompt = {1};
  params.new_tokens_max = 1;
  driver->start(std::move(params), sink);
  driver.reset();
  loop.run_ready();
  EXPECT_EQ(sink->ends, 0);
  EXPECT_TRUE(transport.sent.empty());
  EXPECT_NE(metrics.render().find("mesh_requests_running"), std::string::npos);
}

// --- what OPEN and PROMPT say

TEST_F(DriverTest, ReservesAPartAndOnlyTheLastStageGetsThePrompt) {
  SamplingParams sampling;
  sampling.repetition_penalty = 1.5f;
  sampling.seed = 9;
  GenerateParams params;
  params.prompt = {5, 3, 5, 3};
  params.new_tokens_max = 1000;
  params.sampling = sampling;
  driver->start(std::move(params), sink);
  loop.run_ready();
  const wire::Open first = opens(kA).at(0), last = opens(kC).at(0);
  EXPECT_EQ(first.positions_max, 4 + limits::kReserveAhead);
  EXPECT_EQ(first.new_tokens_max, 1000u);
  EXPECT_EQ(first.replayed, 0u);
  EXPECT_TRUE(first.prompt_ids.empty());
  EXPECT_EQ(last.prompt_ids, (std::vector<TokenId>{3, 5}));
  EXPECT_EQ(last.sampling, sampling);
}

TEST_F(DriverTest, RunsFromTheLeastThatIsCached) {
  start(200);
  const wire::Open open = opens().at(0);
  EXPECT_EQ(open.page_keys.size(), 3u);
  EXPECT_EQ(open.positions_max, 203u);
  const std::vector<TokenId> prompt = tokens_of(200);
  EXPECT_EQ(open.page_keys[2], kvcache::key_bytes(kvcache::page_keys(prompt, 3)[2]));
  driver->on_open_reply(kA, {open.sequence, std::nullopt, 192, 203});
  driver->on_open_reply(kB, {open.sequence, std::nullopt, 64, 203});
  driver->on_open_reply(kC, {open.sequence, std::nullopt, 128, 203});
  const wire::Prompt sent = prompts().at(0);
  EXPECT_EQ(sent.first_position, 64u);
  EXPECT_EQ(sent.tokens, std::vector<TokenId>(prompt.begin() + 64, prompt.end()));
  EXPECT_EQ(sink->hits, (std::vector<std::uint32_t>{64}));
}

TEST_F(DriverTest, OneRowAtLeastIsComputedAndClaimsAreChecked) {
  start(64);
  EXPECT_TRUE(opens().at(0).page_keys.empty());
  start(65);
  const wire::Open open = opens().at(0);
  EXPECT_EQ(open.page_keys.size(), 1u);
  driver->on_open_reply(kA, {open.sequence, std::nullopt, 128, 68});
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, Code::kCorrupt);
}

TEST_F(DriverTest, PromptScoresComeInOrderAndOnce) {
  SamplingParams sampling;
  sampling.prompt_logprobs = true;
  sampling.logprobs = 1;
  handle = start(100, 3, sampling);
  const wire::Open open = opens().at(0);
  EXPECT_TRUE(open.page_keys.empty());
  EXPECT_EQ(open.prompt_ids, tokens_of(100));
  accept(open.sequence);
  const auto part = [&](std::uint32_t begin, std::uint32_t end) {
    wire::Scores out;
    for (std::uint32_t at = begin; at < end; ++at)
      out.rows.push_back(
          {open.sequence, at, static_cast<TokenId>(at + 1), wire::Finish::kNone, -1});
    return out;
  };
  driver->on_scores(kC, part(1, 60));
  driver->on_scores(kB, part(60, 61));  // not from there
  EXPECT_EQ(sink->scores.size(), 59u);
  driver->on_scores(kC, part(60, 100));
  EXPECT_EQ(sink->scores.size(), 99u);
  EXPECT_EQ(sink->scores.back(), (SampledToken{100, -1, {}}));
  driver->on_scores(kC, part(99, 100));
  EXPECT_EQ(sink->error->code, Code::kCorrupt);
}

TEST_F(DriverTest, AnAnswerWithoutItsScoresFails) {
  SamplingParams sampling;
  sampling.prompt_logprobs = true;
  const SequenceId id = running(5, 1, sampling);
  token(id, 5, 1, wire::Finish::kLength);
  EXPECT_FALSE(sink->finish);
  EXPECT_EQ(sink->error->code, Code::kCorrupt);
}

// --- waiting

TEST_F(DriverTest, ARefusalForWantOfPagesWaitsForOneThatEnds) {
  const SequenceId first = running();
  const auto first_sink = sink;
  sink = std::make_shared<FullSink>();
  start();
  const SequenceId second = life();
  closes();
  driver->on_open_reply(test_peer('y'), {second, Error(Code::kUnavailable, "not asked")});
  driver->on_open_reply(kB, {second, kNoPages});
  EXPECT_EQ(closes(), 3u);
  EXPECT_EQ(sink->ends, 0);
  EXPECT_EQ(driver->waiting(), 1u);
  // Late answers of that life are of no interest.
  driver->on_open_reply(kA, {second, std::nullopt});
  driver->on_open_reply(kC, {second, kNoPages});
  token(first, 2, 7, wire::Finish::kStop);
  const SequenceId again = life();
  EXPECT_NE(again, second);
  accept(again);
  EXPECT_EQ(sink->admissions, 1);
  EXPECT_EQ(driver->waiting(), 0u);
  EXPECT_EQ(metrics.histogram("mesh_request_queue_time_seconds", "", {}).count(), 2u);
}

TEST_F(DriverTest, ARefusalIsTriedAgainByTime) {
  start();
  driver->on_open_reply(kB, {life(), kNoPages});
  EXPECT_TRUE(opens().empty());
  loop.advance(milliseconds(26));
  EXPECT_EQ(opens().size(), 1u);
}

TEST_F(DriverTest, WaitingCountsToTheDeadline) {
  start();
  for (;;) {
    for (const wire::Open& open : opens()) driver->on_open_reply(kB, {open.sequence, kNoPages});
    if (sink->ends > 0) break;
    ASSERT_LT(loop.now().time_since_epoch(), limits::kRequestDeadline + seconds(1));
    pass(milliseconds(100));
  }
  EXPECT_EQ(sink->error->code, Code::kDeadlineExceeded);
  EXPECT_NE(sink->error->message.find("waited 600 s for free KV pages"), std::string::npos);
  EXPECT_NE(sink->error->message.find(kB.short_name()), std::string::npos);
}

TEST_F(DriverTest, TheRoomIsBounded) {
  driver = make({2});
  running();
  std::vector<std::shared_ptr<FullSink>> sinks;
  for (int i = 0; i < 3; ++i) {
    sinks.push_back(sink = std::make_shared<FullSink>());
    start();
    for (const wire::Open& open : opens()) driver->on_open_reply(kA, {open.sequence, kNoPages});
  }
  EXPECT_EQ(sinks[0]->ends + sinks[1]->ends, 0);
  ASSERT_TRUE(sinks[2]->error);
  EXPECT_EQ(sinks[2]->error->code, Code::kResourceExhausted);
  EXPECT_TRUE(sinks[2]->error->retryable);
  EXPECT_NE(sinks[2]->error->message.find("2 wait"), std::string::npos);
  EXPECT_EQ(driver->waiting(), 2u);
}

TEST_F(DriverTest, NoRouteAndUnreachableStagesFailOnALaterTurn) {
  no_route = Error(Code::kUnavailable, "layers 2:4 have no ready node", true);
  start();
  EXPECT_EQ(sink->error, no_route);
  no_route.reset();
  sink = std::make_shared<FullSink>();
  transport.unreachable = kB;
  start();
  EXPECT_EQ(sink->error->code, Code::kUnavailable);
  EXPECT_EQ(driver->running() + driver->waiting(), 0u);
}

TEST_F(DriverTest, ARouteThatIsNotReadyIsTriedForSomeSeconds) {
  const Error moved(Code::kUnavailable, "the route is of plan 1, this node serves plan 2", true);
  start();
  driver->on_open_reply(kB, {life(), moved});
  loop.advance(milliseconds(100));
  driver->on_open_reply(kB, {life(), moved});
  no_route = Error(Code::kUnavailable, "layers 2:4 have no ready node", true);
  pass(milliseconds(2700));
  EXPECT_EQ(sink->ends, 0);
  no_route.reset();
  loop.advance(milliseconds(100));
  accept(life());
  EXPECT_EQ(sink->admissions, 1);
  // It stays away.
  sink = std::make_shared<FullSink>();
  start();
  driver->on_open_reply(kB, {life(), moved});
  no_route = Error(Code::kUnavailable, "layers 2:4 have no ready node", true);
  pass(milliseconds(3000));
  EXPECT_EQ(sink->error, no_route);
}

TEST_F(DriverTest, RefusalsThatAreFinalFail) {
  start();
  driver->on_open_reply(kB, {life(), Error(Code::kUnsupported, "another model")});
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, Code::kUnsupported);
  EXPECT_EQ(closes(), 3u);
}

TEST_F(DriverTest, EstimatesWhenToComeBack) {
  EXPECT_EQ(driver->retry_after_s(), 1u);
  const SequenceId id = running(2, 101);
  tokens(id, 2, 13);
  pass(seconds(1));
  EXPECT_EQ(driver->retry_after_s(), 9u);  // 90 tokens at 11 per second
}

// --- pages and credit

TEST_F(DriverTest, GivesCreditAheadOfNeed) {
  const SequenceId id = running(10, 100);
  EXPECT_EQ(credits(), (std::vector<std::uint32_t>{42}));
  tokens(id, 10, 26);
  EXPECT_TRUE(credits().empty());
  token(id, 26, 1);
  EXPECT_EQ(credits(), (std::vector<std::uint32_t>{59}));
  for (std::uint32_t at = 27; at < 109; ++at) token(id, at, 1);
  EXPECT_EQ(credits().back(), 110u);  // and not beyond the end
}

TEST_F(DriverTest, AsksForMorePagesAheadOfNeed) {
  const SequenceId id = running(10, 500);
  tokens(id, 10, 201);
  EXPECT_TRUE(extends(kA).empty());
  token(id, 201, 1);
  for (PeerId peer : {kA, kB, kC}) EXPECT_EQ(extends(peer), (std::vector<std::uint32_t>{510}));
  token(id, 202, 1);
  EXPECT_TRUE(extends(kA).empty());
  accept(id, 0, 510);
  EXPECT_EQ(sink->ends, 0);
  for (std::uint32_t at = 203; at < 508; ++at) token(id, at, 1);
  EXPECT_TRUE(extends(kA).empty());
}

TEST_F(DriverTest, AnUnansweredExtendFails) {
  const SequenceId id = running(10, 500);
  tokens(id, 10, 202);
  driver->on_open_reply(kA, {id, std::nullopt, 0, 510});
  driver->tick(loop.now() + limits::kOpenDeadline);
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, Code::kDeadlineExceeded);
  EXPECT_EQ(sink->error->message.find(kA.short_name()), std::string::npos);
  EXPECT_NE(sink->error->message.find("EXTEND"), std::string::npos);
}

// --- several lives

TEST_F(DriverTest, TheYoungestGivesItsPagesUpAndIsReplayed) {
  SamplingParams sampling;
  sampling.presence_penalty = 0.5f;
  sampling.seed = 11;
  const SequenceId old = running(10, 500);
  const auto old_sink = sink;
  sink = std::make_shared<FullSink>();
  const SequenceId young = running(62, 300, sampling);
  const auto young_sink = sink;
  tokens(young, 62, 70);
  prompts();
  tokens(old, 10, 202);
  closes();
  refuse_extend(old, 266);
  EXPECT_EQ(closes(), 3u);
  EXPECT_EQ(driver->preemptions(), 1u);
  EXPECT_EQ(counter("mesh_preemptions_total"), 1);
  EXPECT_EQ(driver->running(), 1u);
  EXPECT_EQ(driver->waiting(), 1u);
  // What is late of the closed life changes nothing.
  token(young, 70, 1);
  driver->on_fail(kB, {{young}, Error(Code::kInternal, "late")});
  EXPECT_EQ(young_sink->tokens.size(), 8u);
  EXPECT_EQ(young_sink->ends, 0);
  // The old one asks again, only the stage that refused.
  driver->on_open_reply(kA, {old, std::nullopt, 0, 510});
  driver->on_open_reply(kC, {old, std::nullopt, 0, 510});
  for (PeerId peer : {kA, kB, kC}) extends(peer);
  loop.advance(milliseconds(30));
  EXPECT_TRUE(extends(kA).empty());
  EXPECT_EQ(extends(kB), (std::vector<std::uint32_t>{510}));
  driver->on_open_reply(kB, {old, std::nullopt, 0, 510});
  EXPECT_TRUE(opens().empty());
  loop.advance(milliseconds(700));
  const wire::Open open = opens().at(0);
  EXPECT_NE(open.sequence, young);
  EXPECT_EQ(open.prompt_tokens, 62u);
  EXPECT_EQ(open.replayed, 8u);
  EXPECT_EQ(open.positions_max, 70 + limits::kReserveAhead);
  EXPECT_EQ(open.replayed_ids, (std::vector<TokenId>{62, 63, 64, 65, 66, 67, 68, 69}));
  EXPECT_TRUE(open.prompt_ids.empty());
  EXPECT_EQ(open.sampling, sampling);
  std::vector<TokenId> all = tokens_of(62);
  for (TokenId id = 62; id < 70; ++id) all.push_back(id);
  ASSERT_EQ(open.page_keys.size(), 1u);  // it spans prompt and answer
  EXPECT_EQ(open.page_keys[0], kvcache::key_bytes(kvcache::page_keys(all, 1)[0]));
  credits();
  accept(open.sequence);
  EXPECT_EQ(prompts().at(0), (wire::Prompt{open.sequence, all, 0}));
  EXPECT_EQ(credits(), (std::vector<std::uint32_t>{70 + limits::kCreditWindow}));
  EXPECT_EQ(driver->replays(), 1u);
  EXPECT_EQ(young_sink->admissions, 1);
  EXPECT_EQ(young_sink->hits.size(), 1u);
  token(open.sequence, 70, 70, wire::Finish::kStop);
  EXPECT_EQ(young_sink->tokens.size(), 8u);
  EXPECT_EQ(young_sink->ends, 1);
  EXPECT_EQ(old_sink->ends, 0);
}

TEST_F(DriverTest, ScoresOfThePromptAreNotAskedForAgain) {
  SamplingParams sampling;
  sampling.prompt_logprobs = true;
  running(10, 500);
  sink = std::make_shared<FullSink>();
  const SequenceId id = running(4, 500, sampling);
  driver->on_scores(kC, {{{id, 1, 2}, {id, 2, 3}}});
  driver->set_reading(handle, false);
  // Closed before the last score: the next life brings it, and only it is told.
  tokens(id, 4, 40);
  pass(seconds(3));
  driver->set_reading(handle, true);
  const wire::Open again = opens().at(0);
  EXPECT_TRUE(again.sampling.prompt_logprobs);
  EXPECT_TRUE(again.page_keys.empty());
  accept(again.sequence);
  driver->on_scores(kC, {{{again.sequence, 1, 2}, {again.sequence, 2, 3}, {again.sequence, 3, 4}}});
  EXPECT_EQ(sink->scores.size(), 3u);
  driver->set_reading(handle, false);
  for (std::uint32_t at = 37; at < 80 && sink->ends == 0 && driver->running() == 2; ++at)
    token(again.sequence, static_cast<std::uint32_t>(4 + sink->tokens.size()), 1);
  pass(seconds(3));
  driver->set_reading(handle, true);
  const wire::Open third = opens().at(0);
  EXPECT_FALSE(third.sampling.prompt_logprobs);
  EXPECT_TRUE(third.prompt_ids.empty());
  EXPECT_EQ(third.replayed, sink->tokens.size());
}

TEST_F(DriverTest, AnUnreadAnswerIsParkedAndThenReleased) {
  const SequenceId id = running(10, 300);
  credits();
  driver->set_reading(handle, false);
  tokens(id, 10, 42);
  EXPECT_EQ(driver->parked(), 0u);
  token(id, 42, 1);  // of the last row that credit allows
  EXPECT_TRUE(credits().empty());
  EXPECT_EQ(driver->parked(), 1u);
  EXPECT_EQ(counter("mesh_backpressure_total", {{"where", "reader"}}), 1);
  // Back in time.
  driver->set_reading(handle, true);
  EXPECT_EQ(credits(), (std::vector<std::uint32_t>{43 + limits::kCreditWindow}));
  EXPECT_EQ(driver->parked(), 0u);
  driver->set_reading(handle, false);
  for (std::uint32_t at = 43; at < 76; ++at) token(id, at, 1);
  pass(milliseconds(1900));
  EXPECT_EQ(closes(), 0u);
  pass(milliseconds(200));
  EXPECT_EQ(closes(), 3u);
  EXPECT_EQ(driver->releases(), 1u);
  EXPECT_EQ(driver->preemptions(), 0u);
  EXPECT_EQ(driver->parked(), 1u);
  EXPECT_EQ(driver->running(), 0u);
  pass(seconds(5));
  EXPECT_TRUE(opens().empty());
  driver->set_reading(handle, true);
  const wire::Open again = opens().at(0);
  EXPECT_EQ(again.replayed, 66u);
  EXPECT_EQ(driver->parked(), 0u);
  accept(again.sequence);
  EXPECT_EQ(driver->replays(), 1u);
  token(again.sequence, 76, 1, wire::Finish::kStop);
  EXPECT_EQ(sink->tokens.size(), 66u);
  EXPECT_EQ(sink->finish, wire::Finish::kStop);
}

TEST_F(DriverTest, AStageThatCannotKeepItsPagesCausesAReplay) {
  const SequenceId id = running(10, 100);
  tokens(id, 10, 15);
  driver->on_fail(kB, {{id}, kNoPages});
  EXPECT_EQ(closes(), 3u);
  EXPECT_EQ(sink->ends, 0);
  EXPECT_EQ(driver->preemptions(), 1u);
  EXPECT_EQ(driver->running(), 0u);
  loop.advance(milliseconds(30));
  const wire::Open again = opens().at(0);
  EXPECT_EQ(again.replayed, 5u);
  accept(again.sequence);
  EXPECT_EQ(driver->replays(), 1u);
  // Not to be tried again: the request fails.
  driver->on_fail(kB, {{again.sequence}, Error(Code::kResourceExhausted, "too large")});
  EXPECT_EQ(sink->error->message, "too large");
}

TEST_F(DriverTest, AWaitingRequestOutlivesAStage) {
  start();
  driver->on_open_reply(kB, {life(), kNoPages});
  driver->on_peer_down(kB, Error(Code::kUnavailable, "silent"));
  EXPECT_EQ(sink->ends, 0);
  driver->cancel(SequenceId{1});
  EXPECT_EQ(driver->waiting(), 1u);
}

}  // namespace
}  // namespace mesh::pipeline
