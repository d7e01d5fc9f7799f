#include "node/generation.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <utility>

#include "env/manual_loop.h"
#include "formats/model_files.h"
#include "pipeline/test_compute.h"

namespace mesh::node {
namespace {

std::shared_ptr<const TextService> pocket() {
  static const auto text = TextService::create(formats::open_builtin_model()).value();
  return text;
}

TokenId id_of(const std::string& text) {
  return pocket()->tokenizer().token_id(text).value();
}

class Client final : public GenerateSink {
 public:
  struct Choice {
    std::string text;
    std::vector<TokenText> tokens;
    std::optional<FinishReason> reason;
    std::string stop;
  };
  void on_start(const Usage& prompt) override {
    EXPECT_EQ(starts++, 0);
    start = prompt;
  }
  void on_piece(std::uint32_t choice, Piece piece) override {
    EXPECT_EQ(starts, 1);
    EXPECT_FALSE(choices[choice].reason);
    choices[choice].text += piece.text;
    for (TokenText& token : piece.tokens) choices[choice].tokens.push_back(std::move(token));
  }
  void on_choice_end(std::uint32_t choice, FinishReason reason, std::string stop) override {
    EXPECT_FALSE(choices[choice].reason);
    choices[choice].reason = reason;
    choices[choice].stop = std::move(stop);
  }
  void on_end(const Usage& usage, const Timings& t) override {
    ++ends;
    end = usage;
    timings = t;
  }
  void on_error(const Error& why) override {
    ++ends;
    error = why;
  }

  int starts = 0, ends = 0;
  Usage start, end;
  Timings timings;
  std::map<std::uint32_t, Choice> choices;
  std::optional<Error> error;
};

class LoggedEvents final : public Events {
 public:
  void emit(Level, std::string_view name, std::vector<Field> fields) override {
    lines.push_back(format_event(name, fields));
  }
  std::vector<std::string> lines;
};

// A generation whose sequences are played by the test.
struct Stage {
  explicit Stage(GenerateRequest request, std::vector<std::vector<TokenId>> prompts = {{5, 6}})
      : env{loop, loop, loop, random, transport, events, registry} {
    request.prompts.clear();
    for (const auto& ids : prompts) request.prompts.emplace_back(ids);
    ModelRules rules;
    rules.vocabulary = 1530;
    rules.stop_ids = {1};
    RequestPlan plan = plan_request(request, rules, 9).value();
    Generation::Sequences driver;
    driver.start = [this](pipeline::GenerateParams p, std::shared_ptr<pipeline::TokenSink> sink) {
      params.push_back(std::move(p));
      sinks.push_back(std::move(sink));
      return SequenceId{sinks.size() - 1};
    };
    driver.cancel = [this](SequenceId id) { cancelled.insert(id.value); };
    driver.set_reading = [this](SequenceId id, bool on) { reading[id.value] = on; };
    generation =
        std::make_shared<Generation>(Generation::World{env, metrics, std::move(driver)}, "r1",
                                     std::move(plan), pocket(), client, [this] { ++overs; });
    std::vector<PreparedPrompt> prepared;
    for (const auto& ids : prompts)
      prepared.push_back({ids, request.max_tokens == 0u ? 1u : 50u, request.echo ? "<P>" : ""});
    generation->start(std::move(prepared));
  }
  void admit() {
    for (const auto& sink : sinks) sink->admitted();
  }
  void say(std::size_t sequence, const std::string& text, float logprob = -1.0f) {
    sinks[sequence]->token({id_of(text), logprob, {}});
  }

  env::ManualLoop loop;
  pipeline::CountingRandom random;
  pipeline::RecordingTransport transport{pipeline::test_peer('a')};
  LoggedEvents events;
  metrics::Registry registry;
  ServingMetrics metrics{registry};
  env::Env env;
  std::shared_ptr<Client> client = std::make_shared<Client>();
  std::vector<pipeline::GenerateParams> params;
  std::vector<std::shared_ptr<pipeline::TokenSink>> sinks;
  std::set<std::uint64_t> cancelled;
  std::map<std::uint64_t, bool> reading;
  int overs = 0;
  std::shared_ptr<Generation> generation;
};

TEST(GenerationTest, CountsPromptsOnceAndEveryChoicesTokens) {
  GenerateRequest request;
  request.n = 2;
  Stage stage(request, {{5, 6}, {7, 8, 9}});
  ASSERT_EQ(stage.params.size(), 4u);
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(stage.params[i].sampling.choice, i);
    EXPECT_EQ(stage.params[i].sampling.seed, 9u);
    EXPECT_EQ(stage.params[i].prompt.size(), i < 2 ? 2u : 3u);
    stage.sinks[i]->cached(i < 2 ? 1 : 2);
  }
  stage.loop.advance(milliseconds(10));
  stage.admit();
  EXPECT_EQ(stage.client->start.prompt_tokens, 5u);
  EXPECT_EQ(stage.client->start.cached_tokens, 3u);
  stage.loop.advance(milliseconds(20));
  for (std::size_t i = 0; i < 4; ++i) stage.say(i, "a");
  stage.loop.advance(milliseconds(30));
  stage.say(3, "b");
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(stage.client->ends, 0);
    stage.sinks[i]->finished(i == 1 ? wire::Finish::kLength : wire::Finish::kStop);
  }
  EXPECT_EQ(stage.client->ends, 1);
  EXPECT_EQ(stage.overs, 1);
  EXPECT_EQ(stage.client->end.completion_tokens, 5u);
  EXPECT_EQ(stage.client->end.prompt_tokens, 5u);
  EXPECT_EQ(stage.client->choices[3].text, "ab");
  EXPECT_EQ(stage.client->choices[1].reason, FinishReason::kLength);
  EXPECT_EQ(stage.client->timings.queue, milliseconds(10));
  EXPECT_EQ(stage.client->timings.prompt, milliseconds(30));
  EXPECT_EQ(stage.client->timings.generation, milliseconds(30));
  EXPECT_EQ(stage.metrics.prompt_tokens.value(), 5);
  EXPECT_EQ(stage.metrics.generation_tokens.value(), 5);
  EXPECT_EQ(stage.metrics.first_token.count(), 1u);
  EXPECT_EQ(stage.metrics.inter_token.count(), 1u);
  EXPECT_EQ(stage.metrics.finished("length").value(), 1);
  ASSERT_EQ(stage.events.lines.size(), 1u);
  EXPECT_EQ(stage.events.lines[0].find("request.done id=r1 prompt=5 cached=3 tokens=5"), 0u)
      << stage.events.lines[0];
  EXPECT_NE(stage.events.lines[0].find("choices=4 finish=length"), std::string::npos);
}

TEST(GenerationTest, AStopStringOverTokenBordersEndsTheSequenceEverywhere) {
  GenerateRequest request;
  request.stop = {"xx", "ab"};
  Stage stage(request);
  stage.admit();
  stage.say(0, "c");
  stage.say(0, "a");
  EXPECT_EQ(stage.client->choices[0].text, "c");
  stage.say(0, "b");
  EXPECT_EQ(stage.cancelled, (std::set<std::uint64_t>{0}));
  EXPECT_EQ(stage.client->choices[0].text, "c");
  EXPECT_EQ(stage.client->choices[0].reason, FinishReason::kStop);
  EXPECT_EQ(stage.client->choices[0].stop, "ab");
  EXPECT_EQ(stage.client->end.completion_tokens, 3u);
  stage.say(0, "z");
  stage.sinks[0]->finished(wire::Finish::kStop);
  EXPECT_EQ(stage.client->ends, 1);
  EXPECT_EQ(stage.metrics.generation_tokens.value(), 3);
}

TEST(GenerationTest, TheRequestsOwnStopTokenIsToldAndTheModelsIsNot) {
  GenerateRequest request;
  request.n = 2;
  request.stop_token_ids = {42};
  Stage stage(request);
  stage.admit();
  for (std::size_t i = 0; i < 2; ++i) {
    stage.sinks[i]->stop_token(i == 0 ? 42 : 1);
    stage.sinks[i]->finished(wire::Finish::kStop);
  }
  EXPECT_EQ(stage.client->choices[0].stop, "42");
  EXPECT_EQ(stage.client->choices[1].stop, "");
  EXPECT_EQ(stage.client->end.completion_tokens, 0u);
}

TEST(GenerationTest, TheBestOfAPromptAreShownAtItsEnd) {
  GenerateRequest request;
  request.n = 2;
  request.best_of = 3;
  Stage stage(request, {{5}, {6}});
  stage.admit();
  const std::vector<std::string> said = {"a", "b", "c", "d", "e", "f"};
  const std::vector<float> scores = {-3, -1, -2, -1, -1, -1};
  for (std::size_t i = 0; i < 6; ++i) stage.say(i, said[i], scores[i]);
  stage.say(0, "x", -3);
  stage.say(0, "x", -3);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(stage.client->choices.size(), i < 3 ? 0u : 2u);
    stage.sinks[i]->finished(wire::Finish::kLength);
  }
  ASSERT_EQ(stage.client->choices.size(), 4u);
  EXPECT_EQ(stage.client->choices[0].text, "b");
  EXPECT_EQ(stage.client->choices[1].text, "c");
  EXPECT_EQ(stage.client->choices[2].text, "d");
  EXPECT_EQ(stage.client->choices[3].text, "e");
  EXPECT_TRUE(stage.client->choices[0].tokens.empty());
  EXPECT_EQ(stage.client->end.completion_tokens, 4u);
  EXPECT_EQ(stage.client->end.prompt_tokens, 2u);
}

TEST(GenerationTest, AnEchoComesFirstWithTheScoresOfThePrompt) {
  GenerateRequest request;
  request.echo = true;
  request.logprobs = 1;
  Stage stage(request, {{id_of("a"), id_of("b"), id_of("c")}});
  EXPECT_TRUE(stage.params[0].sampling.prompt_logprobs);
  stage.admit();
  EXPECT_EQ(stage.client->choices[0].text, "<P>");
  stage.sinks[0]->prompt_scores({{id_of("b"), -0.5f, {{id_of("b"), -0.5f}}}});
  stage.sinks[0]->prompt_scores({{id_of("c"), -0.25f, {}}, {id_of("d"), -9.0f, {}}});
  stage.say(0, "z", -2.0f);
  stage.sinks[0]->finished(wire::Finish::kLength);
  EXPECT_EQ(stage.client->choices[0].text, "<P>z");
  const auto& tokens = stage.client->choices[0].tokens;
  ASSERT_EQ(tokens.size(), 4u);
  EXPECT_FALSE(tokens[0].logprob.has_value());
  EXPECT_EQ(tokens[0].bytes, "a");
  EXPECT_EQ(tokens[1].logprob, -0.5f);
  EXPECT_EQ(tokens[1].top.size(), 1u);
  EXPECT_EQ(tokens[2].bytes, "c");
  EXPECT_EQ(tokens[3].bytes, "z");
  EXPECT_EQ(stage.client->end.completion_tokens, 1u);
}

TEST(GenerationTest, ScoringAPromptSaysNothing) {
  GenerateRequest request;
  request.echo = true;
  request.logprobs = 0;
  request.max_tokens = 0;
  Stage stage(request, {{id_of("a"), id_of("b")}});
  stage.admit();
  stage.sinks[0]->prompt_scores({{id_of("b"), -0.5f, {}}});
  stage.say(0, "z");
  stage.sinks[0]->finished(wire::Finish::kStop);
  EXPECT_EQ(stage.client->choices[0].text, "<P>");
  EXPECT_EQ(stage.client->choices[0].tokens.size(), 2u);
  EXPECT_EQ(stage.client->choices[0].reason, FinishReason::kLength);
  EXPECT_EQ(stage.client->end.completion_tokens, 0u);
}

TEST(GenerationTest, OneFailureCancelsTheRestAndIsToldOnce) {
  GenerateRequest request;
  request.n = 3;
  Stage stage(request);
  stage.admit();
  stage.sinks[0]->finished(wire::Finish::kStop);
  stage.sinks[1]->failed(Error(Code::kUnavailable, "lost"));
  EXPECT_EQ(stage.cancelled.count(0), 0u);
  EXPECT_EQ(stage.cancelled.count(2), 1u);
  stage.sinks[2]->failed(Error(Code::kUnavailable, "lost"));
  stage.sinks[2]->finished(wire::Finish::kStop);
  EXPECT_EQ(stage.client->ends, 1);
  EXPECT_EQ(stage.overs, 1);
  EXPECT_EQ(stage.client->error->message, "lost");
  EXPECT_EQ(stage.metrics.finished("error").value(), 1);
}

TEST(GenerationTest, NothingIsToldAfterAClientThatLeft) {
  GenerateRequest request;
  request.n = 2;
  Stage stage(request);
  stage.admit();
  stage.generation->set_reading(false);
  EXPECT_EQ(stage.reading, (std::map<std::uint64_t, bool>{{0, false}, {1, false}}));
  stage.generation->cancel();
  EXPECT_EQ(stage.cancelled, (std::set<std::uint64_t>{0, 1}));
  stage.say(0, "a");
  stage.generation->fail(Error(Code::kInternal, "late"));
  EXPECT_EQ(stage.client->ends, 0);
  EXPECT_TRUE(stage.client->choices.empty());
  EXPECT_EQ(stage.metrics.finished("cancelled").value(), 1);
}

}  // namespace
}  // namespace mesh::node
