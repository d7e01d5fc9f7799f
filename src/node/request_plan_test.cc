#include "node/request_plan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/limits.h"

namespace mesh::node {
namespace {

ModelRules rules() {
  ModelRules out;
  out.stop_ids = {2, 3};
  out.sampling = {0.6f, 20, 0.95f, 0.05f, 1.1f};
  out.vocabulary = 100;
  return out;
}

GenerateRequest ask() {
  GenerateRequest request;
  request.prompts.emplace_back(std::vector<TokenId>{1});
  return request;
}

std::string refusal(const GenerateRequest& request) {
  const Result<RequestPlan> plan = plan_request(request, rules(), 0);
  if (plan.ok()) return "";
  EXPECT_EQ(plan.error().code, Code::kInvalidArgument);
  return plan.error().message;
}

TEST(SamplingDefaultsTest, AreTheMakersOrNeutral) {
  using model::parse_sampling_defaults;
  EXPECT_EQ(parse_sampling_defaults("").value(), model::SamplingDefaults());
  EXPECT_EQ(parse_sampling_defaults("{}").value().temperature, 1.0f);
  EXPECT_EQ(parse_sampling_defaults(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95,
      "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1})")
                .value(),
            rules().sampling);
  EXPECT_EQ(
      parse_sampling_defaults(R"({"do_sample": false, "temperature": 0.6})").value().temperature,
      0.0f);
  EXPECT_NE(parse_sampling_defaults(R"({"top_p": 2})").error().message.find("top_p"),
            std::string::npos);
  EXPECT_EQ(parse_sampling_defaults("[").error().code, Code::kCorrupt);
}

TEST(RequestPlanTest, FillsInWhatTheRequestLeavesOpen) {
  const RequestPlan plan = plan_request(ask(), rules(), 99).value();
  SamplingParams expected;
  expected.temperature = 0.6f;
  expected.top_k = 20;
  expected.top_p = 0.95f;
  expected.min_p = 0.05f;
  expected.repetition_penalty = 1.1f;
  expected.seed = 99;
  expected.stop_ids = {2, 3};
  EXPECT_EQ(plan.sampling, expected);
  EXPECT_EQ(plan.sequences, 1u);
  EXPECT_FALSE(plan.picks_best());
}

TEST(RequestPlanTest, TheRequestWinsOverTheModel) {
  GenerateRequest request = ask();
  request.sampling.temperature = 0.0f;
  request.sampling.top_k = 0;
  request.sampling.top_p = 1.0f;
  request.sampling.min_p = 0.0f;
  request.sampling.repetition_penalty = 1.0f;
  request.sampling.presence_penalty = 0.5f;
  request.sampling.frequency_penalty = -0.5f;
  request.sampling.seed = 7;
  request.sampling.logit_bias = {{9, 1.0f}, {4, -1.0f}};
  request.stop_token_ids = {9, 3, 9};
  request.logprobs = 5;
  SamplingParams expected;
  expected.presence_penalty = 0.5f;
  expected.frequency_penalty = -0.5f;
  expected.seed = 7;
  expected.logit_bias = {{4, -1.0f}, {9, 1.0f}};
  expected.stop_ids = {2, 3, 9};
  expected.logprobs = 5;
  EXPECT_EQ(plan_request(request, rules(), 99).value().sampling, expected);
  request.ignore_eos = true;
  EXPECT_EQ(plan_request(request, rules(), 99).value().sampling.stop_ids,
            (std::vector<TokenId>{3, 9}));
}

TEST(RequestPlanTest, PickingTheBestNeedsLogProbabilities) {
  GenerateRequest request = ask();
  request.n = 2;
  EXPECT_EQ(plan_request(request, rules(), 0).value().sampling.logprobs, -1);
  request.best_of = 4;
  const RequestPlan plan = plan_request(request, rules(), 0).value();
  EXPECT_TRUE(plan.picks_best());
  EXPECT_EQ(plan.sampling.logprobs, 0);
  EXPECT_FALSE(plan.token_texts);
}

TEST(RequestPlanTest, RefusalsNameParameterAndValue) {
  GenerateRequest request = ask();
  request.sampling.logit_bias = {{100, 1.0f}};
  EXPECT_EQ(refusal(request),
            "logit_bias: token 100 is not in the model's vocabulary of 100 tokens");
  request.sampling.logit_bias = {{5, 1.0f}, {5, 2.0f}};
  EXPECT_EQ(refusal(request), "logit_bias: token 5 is named twice");
  request = ask();
  request.stop_token_ids = {-1};
  EXPECT_EQ(refusal(request),
            "stop_token_ids: token -1 is not in the model's vocabulary of 100 tokens");
  request = ask();
  for (TokenId id = 10; id < 73; ++id) request.stop_token_ids.push_back(id);
  EXPECT_EQ(refusal(request), "stop_token_ids: 65 stop tokens with the model's own, at most 64");
  request = ask();
  request.stop.assign(17, "x");
  EXPECT_EQ(refusal(request), "stop: 17 strings, at most 16");
  request.stop = {""};
  EXPECT_EQ(refusal(request), "stop: a stop string must not be empty");
  request = ask();
  request.n = 3;
  request.best_of = 2;
  EXPECT_EQ(refusal(request), "best_of is 2, it must not be less than n, 3");
  request.best_of = static_cast<std::uint32_t>(limits::kSequencesPerRequest) + 1;
  EXPECT_NE(refusal(request).find("at most 256"), std::string::npos);
  request = ask();
  request.max_tokens = 0;
  EXPECT_NE(refusal(request), "");
  request.echo = true;
  EXPECT_EQ(refusal(request), "");
  request = ask();
  request.max_tokens = 2;
  request.min_tokens = 3;
  EXPECT_EQ(refusal(request), "min_tokens is 3, more than max_tokens, 2");
}

TEST(ChooseBestTest, TakesTheHighestMeansAndTheEarlierAmongEquals) {
  const double nan = std::nan(""), none = -std::numeric_limits<double>::infinity();
  EXPECT_EQ(choose_best({-2, -1, -1, -3}, 3), (std::vector<std::size_t>{1, 2, 0}));
  EXPECT_EQ(choose_best({nan, none, -9}, 3), (std::vector<std::size_t>{2, 0, 1}));
  EXPECT_EQ(choose_best({-1}, 4), (std::vector<std::size_t>{0}));
}

}  // namespace
}  // namespace mesh::node
