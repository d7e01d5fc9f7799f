#include "node/serving.h"

#include <gtest/gtest.h>

#include <future>
#include <map>

#include "base/limits.h"
#include "env/blocking_pool.h"
#include "formats/model_files.h"
#include "node/test_mesh.h"

namespace mesh::node {
namespace {

class Client final : public GenerateSink {
 public:
  void on_start(const Usage&) override { ++starts; }
  void on_piece(std::uint32_t choice, Piece piece) override { texts[choice] += piece.text; }
  void on_choice_end(std::uint32_t choice, FinishReason reason, std::string stop) override {
    reasons[choice] = reason;
    stops[choice] = std::move(stop);
  }
  void on_end(const Usage& total, const Timings&) override {
    ++ends;
    usage = total;
  }
  void on_error(const Error& why) override {
    ++ends;
    error = why;
  }
  int starts = 0, ends = 0;
  Usage usage;
  std::map<std::uint32_t, std::string> texts, stops;
  std::map<std::uint32_t, FinishReason> reasons;
  std::optional<Error> error;
};

// A gateway before a mesh whose tokens are 10 + position, with the built-in model's tokenizer. The
// pool's one thread runs only while the test waits for it: loop and mesh belong to the test's.
class ServingTest : public testing::Test {
 protected:
  explicit ServingTest(std::size_t nodes = 1) {
    for (std::size_t i = 0; i < nodes; ++i)
      at.push_back(&mesh.add(static_cast<char>('a' + i), [nodes](NodeConfig& config) {
        config.min_nodes = static_cast<std::uint32_t>(nodes);
      }));
    serving = std::make_unique<Serving>(*at[0]->env, *at[0]->mesh, pool);
  }
  void give_model() {
    ModelRules rules;
    rules.vocabulary = 100;
    serving->set_model(text, rules);
  }
  void ready() {
    give_model();
    mesh.run(seconds(3));
    ASSERT_TRUE(at[0]->mesh->choose_route().ok());
  }
  // Everything that `ask` starts is encoded and taken in; steps are not computed yet.
  void encode(const std::function<void()>& ask) {
    std::promise<void> go;
    ASSERT_TRUE(pool.submit([ready = go.get_future().share()] { ready.wait(); }).ok());
    ask();
    mesh.loop.run_ready();
    std::promise<void> drained;
    ASSERT_TRUE(pool.submit([&] { drained.set_value(); }).ok());
    go.set_value();
    drained.get_future().wait();
    mesh.loop.run_ready();
  }
  std::shared_ptr<Client> ask(GenerateRequest request) {
    auto client = std::make_shared<Client>();
    encode([&] { serving->generate(std::move(request), client); });
    return client;
  }
  static GenerateRequest ids(std::string id, std::uint32_t max_tokens, std::uint32_t n = 1) {
    GenerateRequest request;
    request.request_id = std::move(id);
    request.prompts.emplace_back(std::vector<TokenId>{1, 2, 3});
    request.max_tokens = max_tokens;
    request.n = n;
    return request;
  }

  std::shared_ptr<const TextService> text =
      TextService::create(formats::open_builtin_model()).value();
  Mesh mesh;
  std::vector<Mesh::Node*> at;
  env::BlockingPool pool{1};
  std::unique_ptr<Serving> serving;
};

class TwoNodesTest : public ServingTest {
 protected:
  TwoNodesTest() : ServingTest(2) {}
};

TEST_F(ServingTest, EveryRequestIsAnsweredBeforeTheModelIsThereAndAfterTheEnd) {
  auto early = std::make_shared<Client>();
  serving->generate(ids("r1", 1), early);
  EXPECT_EQ(early->ends, 0) << "never from within generate()";
  mesh.settle();
  EXPECT_EQ(early->error->code, Code::kUnavailable);
  mesh.run(seconds(1));
  auto without_text = std::make_shared<Client>();
  serving->generate(ids("r2", 1), without_text);
  mesh.settle();
  EXPECT_NE(without_text->error->message.find("still being loaded"), std::string::npos);
  serving->cancel("unknown");
  serving->shut_down(Error(Code::kUnavailable, "stopping"));
  auto late = std::make_shared<Client>();
  serving->generate(ids("r3", 1), late);
  mesh.settle();
  EXPECT_EQ(late->error->message, "stopping");
}

TEST_F(ServingTest, MayBeDestroyedWithAnswersUnderWay) {
  auto client = std::make_shared<Client>();
  serving->generate(ids("r1", 1), client);
  serving.reset();
  mesh.settle();
  EXPECT_EQ(client->ends, 0);
}

TEST_F(ServingTest, MayBeDestroyedWithSequencesRunning) {
  ready();
  const auto client = ask(ids("r1", 50, 2));
  serving.reset();
  mesh.settle();
  EXPECT_EQ(client->ends, 0);
  EXPECT_EQ(at[0]->mesh->driver().running(), 0u);
}

TEST_F(TwoNodesTest, ChoicesAreAnsweredSideBySide) {
  ready();
  const auto client = ask(ids("r1", 4, 2));
  mesh.settle();
  ASSERT_FALSE(client->error) << client->error->message;
  const std::string expected = text->tokenizer().decode(std::vector<TokenId>{12, 13, 14, 15}, true);
  EXPECT_EQ(client->texts, (std::map<std::uint32_t, std::string>{{0, expected}, {1, expected}}));
  EXPECT_EQ(client->reasons[1], FinishReason::kLength);
  EXPECT_EQ(client->usage.prompt_tokens, 3u);
  EXPECT_EQ(client->usage.completion_tokens, 8u);
  EXPECT_EQ(client->starts, 1);
  EXPECT_EQ(client->ends, 1);
  EXPECT_TRUE(serving->idle());
}

TEST_F(ServingTest, AStopStringFreesThePagesOfItsSequence) {
  ready();
  GenerateRequest request = ids("r1", 200);
  request.stop = {text->tokenizer().decode(std::vector<TokenId>{20, 21}, true)};
  const auto client = ask(request);
  mesh.settle();
  EXPECT_EQ(client->texts[0],
            text->tokenizer().decode(std::vector<TokenId>{12, 13, 14, 15, 16, 17, 18, 19}, true));
  EXPECT_EQ(client->stops[0], request.stop[0]);
  EXPECT_EQ(client->usage.completion_tokens, 10u);
  EXPECT_EQ(at[0]->mesh->driver().running(), 0u);
  EXPECT_EQ(at[0]->mesh->hop()->sequences(), 0u);
}

TEST_F(ServingTest, AClientThatLeavesEndsItsSequences) {
  ready();
  const auto client = ask(ids("r1", 50, 2));
  EXPECT_FALSE(serving->idle());
  serving->set_reading("r1", false);
  serving->cancel("r1");
  mesh.settle();
  EXPECT_EQ(client->ends, 0);
  EXPECT_TRUE(serving->idle());
  EXPECT_EQ(at[0]->mesh->hop()->sequences(), 0u);
  EXPECT_NE(at[0]->metrics.render().find("mesh_requests_total{finish_reason=\"cancelled\"} 1"),
            std::string::npos);
}

TEST_F(TwoNodesTest, ALostNodeIsToldOnceForAllChoices) {
  ready();
  const auto client = ask(ids("r1", 100, 3));
  mesh.lose(1);
  mesh.run(seconds(5));
  EXPECT_EQ(client->ends, 1);
  ASSERT_TRUE(client->error);
  EXPECT_EQ(client->error->code, Code::kUnavailable);
  EXPECT_EQ(at[0]->mesh->driver().running(), 0u);
}

TEST_F(ServingTest, PromptsThatDoNotFitNameBothNumbers) {
  ready();
  GenerateRequest request = ids("r1", 5);
  request.prompts = {std::vector<TokenId>(300, 1)};
  const auto client = ask(request);
  ASSERT_TRUE(client->error);
  EXPECT_EQ(client->error->message,
            "context_length_exceeded: the prompt has 300 tokens, the model's context is 256");
  request.prompts = {std::vector<TokenId>{1}, std::vector<TokenId>{100}};
  EXPECT_EQ(ask(request)->error->message,
            "token 100 is not in the model's vocabulary of 100 tokens");
}

TEST_F(ServingTest, ScoringAPromptRunsOneToken) {
  ready();
  GenerateRequest request = ids("r1", 0);
  request.echo = true;
  const auto client = ask(request);
  mesh.settle();
  ASSERT_FALSE(client->error);
  EXPECT_EQ(client->texts[0], text->tokenizer().decode(std::vector<TokenId>{1, 2, 3}, true));
  EXPECT_EQ(client->usage.completion_tokens, 0u);
}

TEST_F(ServingTest, StoppingToAdmitLetsTheRunningEnd) {
  ready();
  const auto running = ask(ids("r1", 5));
  serving->stop_admitting(Error(Code::kUnavailable, "stopping", true));
  EXPECT_EQ(ask(ids("r2", 5))->error->message, "stopping");
  EXPECT_FALSE(serving->idle());
  mesh.settle();
  EXPECT_FALSE(running->error);
  EXPECT_EQ(running->ends, 1);
  EXPECT_TRUE(serving->idle());
}

TEST_F(ServingTest, TooManyWaitingRequestsAreTurnedAway) {
  ready();
  // None is encoded before the end of this test.
  std::promise<void> go;
  ASSERT_TRUE(pool.submit([hold = go.get_future().share()] { hold.wait(); }).ok());
  std::vector<std::shared_ptr<Client>> clients;
  for (std::size_t i = 0; i <= limits::kWaitingRequests; ++i) {
    clients.push_back(std::make_shared<Client>());
    serving->generate(ids(std::to_string(i), 1), clients.back());
  }
  mesh.loop.run_ready();
  ASSERT_TRUE(clients.back()->error);
  EXPECT_EQ(clients.back()->error->code, Code::kResourceExhausted);
  EXPECT_TRUE(clients.back()->error->retryable);
  EXPECT_FALSE(clients[limits::kWaitingRequests - 1]->error);
  serving->shut_down(Error(Code::kUnavailable, "stopping"));
  for (const auto& client : clients) EXPECT_EQ(client->ends, 1);
  go.set_value();
  pool.stop();
}

TEST_F(ServingTest, ARequestIsTakenWithAllItsSequencesOrNotAtAll) {
  ready();
  std::promise<void> go;
  ASSERT_TRUE(pool.submit([hold = go.get_future().share()] { hold.wait(); }).ok());
  auto first = std::make_shared<Client>(), large = std::make_shared<Client>();
  serving->generate(ids("r1", 1), first);
  serving->generate(ids("r2", 1, limits::kSequencesPerRequest), large);
  mesh.loop.run_ready();
  EXPECT_FALSE(first->error);
  ASSERT_TRUE(large->error);
  EXPECT_EQ(large->error->code, Code::kResourceExhausted);
  go.set_value();
  pool.stop();
}

TEST_F(ServingTest, TextsAndTokensAreTurnedIntoEachOther) {
  std::optional<Result<std::vector<TokenText>>> tokens;
  std::optional<Result<std::string>> back;
  const auto tokenize = [&](PromptInput prompt) {
    encode([&] {
      serving->tokenize({std::move(prompt), true},
                        [&](Result<std::vector<TokenText>> r) { tokens = std::move(r); });
    });
  };
  tokenize(std::string("hello world"));
  ASSERT_FALSE(tokens->ok());
  EXPECT_EQ(tokens->error().code, Code::kUnavailable);
  give_model();
  tokenize(std::string("hello world"));
  ASSERT_TRUE(tokens->ok());
  std::string joined;
  std::vector<TokenId> found;
  for (const TokenText& token : **tokens) {
    joined += token.bytes;
    found.push_back(token.token);
    EXPECT_FALSE(token.logprob.has_value());
  }
  EXPECT_EQ(joined, "hello world");
  const auto detokenize = [&](std::vector<TokenId> list) {
    encode([&] {
      serving->detokenize(std::move(list), [&](Result<std::string> r) { back = std::move(r); });
    });
  };
  detokenize(found);
  EXPECT_EQ(back->value(), "hello world");
  detokenize({-5});
  EXPECT_EQ(back->error().code, Code::kInvalidArgument);
  tokenize(ChatPrompt{R"([{"role": "user", "content": "hi"}])", "", "", false});
  EXPECT_GT(tokens->value().size(), 3u);
  pool.stop();
  serving->detokenize({1}, [&](Result<std::string> r) { back = std::move(r); });
  mesh.settle();
  EXPECT_EQ(back->error().code, Code::kCancelled);
}

TEST_F(ServingTest, StatusAndMetricsTellWhatRuns) {
  ready();
  const auto client = ask(ids("r1", 50));
  serving->publish_status();
  EXPECT_EQ(serving->status().requests_running + serving->status().requests_waiting, 1u);
  EXPECT_GE(serving->status().retry_after_s, 1u);
  mesh.settle();
  serving->publish_status();
  EXPECT_EQ(serving->status().requests_running + serving->status().requests_waiting, 0u);
  std::string shown;
  serving->metrics([&](std::string all) { shown = std::move(all); });
  EXPECT_EQ(shown, "");
  mesh.settle();
  EXPECT_NE(shown.find("mesh_generation_tokens_total 50"), std::string::npos) << shown;
  EXPECT_NE(shown.find("mesh_requests_total{finish_reason=\"length\"} 1"), std::string::npos);
  EXPECT_NE(shown.find("mesh_time_to_first_token_seconds_count 1"), std::string::npos);
}

}  // namespace
}  // namespace mesh::node
