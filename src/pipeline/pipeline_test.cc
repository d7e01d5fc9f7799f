#include <gtest/gtest.h>

#include <memory>
#include <numeric>

#include "base/limits.h"
#include "pipeline/driver.h"
#include "pipeline/test_compute.h"

namespace mesh::pipeline {
namespace {

const PeerId kA = test_peer('a'), kB = test_peer('b'), kC = test_peer('c'), kX = test_peer('x');
const std::vector<wire::StageAssignment> kRoute = {{kA, {0, 2}}, {kB, {2, 4}}, {kC, {4, 6}}};
constexpr std::uint64_t kPrint = 77;

std::vector<TokenId> tokens_of(std::size_t count) {
  std::vector<TokenId> out(count);
  std::iota(out.begin(), out.end(), 1);
  return out;
}

// The driver of entry X over kRoute.
class DriverTest : public ::testing::Test {
 protected:
  SequenceId start(std::size_t prompt = 2, std::uint32_t more = 3) {
    GenerateParams params;
    params.prompt = tokens_of(prompt);
    params.new_tokens_max = more;
    const SequenceId id = driver->start(std::move(params), sink);
    EXPECT_EQ(sink->ends, 0);
    loop.run_ready();
    return id;
  }
  SequenceId running() {
    const SequenceId id = start();
    for (PeerId peer : {kA, kB, kC}) driver->on_open_reply(peer, {id, std::nullopt});
    EXPECT_EQ(sink->admissions, 1);
    return id;
  }
  void token(SequenceId id, std::uint32_t position, TokenId token,
             wire::Finish finish = wire::Finish::kNone, PeerId from = kC) {
    driver->on_tokens(from, {{{id, position, token, finish}}});
  }
  std::size_t closes() {
    std::size_t count = 0;
    for (PeerId peer : {kA, kB, kC}) count += transport.take(peer, wire::FrameType::kClose).size();
    return count;
  }

  env::ManualLoop loop;
  CountingRandom random;
  NullEvents events;
  metrics::Registry metrics;
  RecordingTransport transport{kX};
  env::Env env{loop, loop, loop, random, transport, events, metrics};
  std::optional<Error> no_route;
  std::unique_ptr<Driver> driver = std::make_unique<Driver>(env, [this]() -> Result<RouteChoice> {
    if (no_route) return *no_route;
    return RouteChoice{Epoch{1}, kPrint, "n1", kRoute};
  });
  std::shared_ptr<RecordingSink> sink = std::make_shared<RecordingSink>();
};

TEST_F(DriverTest, DeliversTokensInOrderAndEndsEverywhere) {
  const SequenceId id = running();
  EXPECT_EQ(transport.take(kA, wire::FrameType::kPrompt).size(), 1u);
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

TEST_F(DriverTest, ARefusedOpenClosesTheOthers) {
  const SequenceId id = start();
  driver->on_open_reply(kA, {id, std::nullopt});
  driver->on_open_reply(test_peer('y'), {id, Error(Code::kUnavailable, "not asked")});
  EXPECT_EQ(sink->ends, 0);
  driver->on_open_reply(kB, {id, Error(Code::kResourceExhausted, "no pages", true)});
  ASSERT_TRUE(sink->error);
  EXPECT_EQ(sink->error->code, Code::kResourceExhausted);
  EXPECT_TRUE(sink->error->retryable);
  EXPECT_NE(sink->error->message.find(kB.short_name()), std::string::npos);
  EXPECT_EQ(closes(), 3u);
  EXPECT_EQ(sink->admissions, 0);
}

TEST_F(DriverTest, DeadlinesNameWhoIsSilent) {
  const SequenceId id = start();
  driver->on_open_reply(kA, {id, std::nullopt});
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
  sink->on_token = [&] { driver->cancel(id); };
  token(id, 2, 7, wire::Finish::kLength);
  EXPECT_EQ(sink->tokens.size(), 1u);
  EXPECT_EQ(sink->ends, 0);
  EXPECT_EQ(closes(), 3u);
  // One failing request cancels another that fails in the same sweep.
  std::vector<SequenceId> ids;
  auto first = std::make_shared<RecordingSink>();
  sink = first;
  ids.push_back(start());
  auto second = std::make_shared<RecordingSink>();
  sink = second;
  ids.push_back(start());
  const auto cancel_all = [&] {
    for (SequenceId one : ids) driver->cancel(one);
  };
  first->on_failed = second->on_failed = cancel_all;
  driver->tick(loop.now() + limits::kOpenDeadline);
  EXPECT_EQ(first->ends + second->ends, 1);
  EXPECT_EQ(driver->running(), 0u);
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

TEST_F(DriverTest, NoRouteAndUnreachableStagesFailOnALaterTurn) {
  no_route = Error(Code::kUnavailable, "layers 2:4 have no ready node", true);
  start();
  EXPECT_EQ(sink->error, no_route);
  no_route.reset();
  sink = std::make_shared<RecordingSink>();
  transport.unreachable = kB;
  start();
  EXPECT_EQ(sink->error->code, Code::kUnavailable);
  EXPECT_EQ(driver->running(), 0u);
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
}

}  // namespace
}  // namespace mesh::pipeline
