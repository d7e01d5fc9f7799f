// Many requests at once over real processes: the answers are those of one request alone, and the
// paths that this is about (batches, micro-batches, preemption, prefix reuse) were taken.

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "mesh_process.h"

namespace mesh::loopback {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

// One sample of a node's /metrics, labels included; 0 where it is missing.
double metric(const Node& node, const std::string& name) {
  std::istringstream lines(http(node.url() + "/metrics").body);
  for (std::string line; std::getline(lines, line);)
    if (line.rfind(name + " ", 0) == 0) return std::stod(line.substr(name.size() + 1));
  return 0;
}

bool idle(const Node& node) {
  return metric(node, "mesh_pages{state=\"used\"}") == 0 &&
         metric(node, "mesh_requests_running") == 0 && metric(node, "mesh_requests_waiting") == 0;
}

// Words that pocket's tokenizer knows; the beginning is shared by all with the same `shared`.
std::string prompt(int shared, int own) {
  std::string text;
  for (int i = 0; i < shared; ++i) text += i % 2 == 0 ? "one " : "two ";
  for (int i = 0; i < 3 + own; ++i) text += "number " + std::to_string(own * 7 + i) + " ";
  return text;
}

// Eight requests: short and long prompts, with and without a common beginning, every option of
// sampling.
std::vector<std::string> requests(int tokens, int shared = 40) {
  const char* options[] = {
      R"("temperature":1)",
      R"("temperature":1,"repetition_penalty":1.2,"presence_penalty":0.5,"frequency_penalty":0.3)",
      R"("temperature":1,"top_k":20,"top_p":0.9,"min_p":0.02)",
      R"("temperature":1,"n":2)",
      R"("temperature":0)",
      R"("temperature":1.3,"logit_bias":{"16":2.5,"17":-100})",
      R"("temperature":0.7,"logprobs":2)",
      R"("temperature":1,"n":2,"logprobs":1,"frequency_penalty":1.5)"};
  std::vector<std::string> out;
  for (int i = 0; i < 8; ++i)
    out.push_back("{\"prompt\":" + Json(prompt(i % 2 == 0 ? shared : 2 + i, i)).dump() +
                  ",\"ignore_eos\":true,\"seed\":" + std::to_string(100 + i) +
                  ",\"max_tokens\":" + std::to_string(tokens) + "," + options[i] + "}");
  return out;
}

// The choices of an answer as they were sent; the whole body when there are none.
std::string choices(const Reply& reply) {
  const Json json = Json::parse(reply.body, nullptr, false);
  return json.is_object() && json.contains("choices") ? json["choices"].dump() : reply.body;
}

Reply complete(const Node& node, const std::string& body) {
  return http(node.url() + "/v1/completions", body);
}

std::vector<std::string> one_by_one(const Node& node, const std::vector<std::string>& bodies) {
  std::vector<std::string> out;
  for (const std::string& body : bodies) out.push_back(choices(complete(node, body)));
  return out;
}

std::vector<std::string> together(const std::vector<const Node*>& nodes,
                                  const std::vector<std::string>& bodies) {
  std::vector<std::string> out(bodies.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < bodies.size(); ++i)
    threads.emplace_back(
        [&, i] { out[i] = choices(complete(*nodes[i % nodes.size()], bodies[i])); });
  for (std::thread& thread : threads) thread.join();
  return out;
}

void expect_same(const std::vector<std::string>& got, const std::vector<std::string>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], expected[i]) << "request " << i;
}

class ServingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    alone_ = std::make_unique<Node>(scratch_, "alone", "serve", std::vector<std::string>{});
    ASSERT_TRUE(alone_->listening() && alone_->ready()) << alone_->process().output();
  }
  // Starts three nodes with `arguments` for each.
  void start(const std::vector<std::string>& arguments = {}) {
    mesh_ = start_mesh(scratch_, 3, {arguments, arguments, arguments});
    for (const auto& node : mesh_) {
      ASSERT_TRUE(node->ready()) << node->process().output();
      nodes_.push_back(node.get());
    }
  }
  void TearDown() override {
    nodes_.push_back(alone_.get());
    for (const Node* node : nodes_)
      EXPECT_TRUE(eventually(seconds(5), [&] { return idle(*node); }))
          << http(node->url() + "/metrics").body;
  }
  // Of the node that has layer 0.
  const Node& first_stage() const {
    const Json status = Json::parse(http(nodes_[0]->url() + "/mesh/status").body);
    for (const Json& one : status["nodes"])
      if (one["layers"][0] == 0 && one["layers"][1] != 0)
        for (const Node* node : nodes_)
          if (node->url().find(one["http"].get<std::string>()) != std::string::npos) return *node;
    return *nodes_[0];
  }

  ScratchDir scratch_;
  std::unique_ptr<Node> alone_;
  std::vector<std::unique_ptr<Node>> mesh_;
  std::vector<const Node*> nodes_;
};

TEST_F(ServingTest, EightAtOnceOverThreeStagesAnswerAsEachAlone) {
  const std::vector<std::string> bodies = requests(160);
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  EXPECT_NE(expected[0], expected[1]);
  start();
  const Node& first = first_stage();
  std::atomic<bool> over{false};
  double in_flight = 0;
  std::thread watch([&] {
    while (!over) in_flight = std::max(in_flight, metric(first, "mesh_micro_batches_in_flight"));
  });
  const std::vector<std::string> got = together(nodes_, bodies);
  over = true;
  watch.join();
  expect_same(got, expected);
  EXPECT_GE(in_flight, 2) << "micro-batches of stage 0 under way at once";
}

TEST_F(ServingTest, EightStreamsShareTheirSteps) {
  std::vector<std::string> bodies;
  for (int i = 0; i < 8; ++i)
    bodies.push_back("{\"prompt\":\"one two " + std::to_string(i) +
                     "\",\"ignore_eos\":true,\"temperature\":1,\"seed\":5,\"max_tokens\":400}");
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  const double rows = metric(*alone_, "mesh_decode_batch_rows_sum");
  const double steps = metric(*alone_, "mesh_decode_batch_rows_count");
  expect_same(together({alone_.get()}, bodies), expected);
  const double mean = (metric(*alone_, "mesh_decode_batch_rows_sum") - rows) /
                      (metric(*alone_, "mesh_decode_batch_rows_count") - steps);
  EXPECT_GE(mean, 6) << "rows of a decode step";
}

TEST_F(ServingTest, PreemptedSequencesGoOnWithTheSameTokens) {
  // Longer than what is reserved at first, in pages for few of them.
  const std::vector<std::string> bodies = requests(380, 4);
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  start({"--kv-memory", "600K"});
  expect_same(together({nodes_[0]}, bodies), expected);
  EXPECT_GT(metric(*nodes_[0], "mesh_preemptions_total"), 0);
}

TEST_F(ServingTest, ACachedBeginningChangesNothing) {
  const std::vector<std::string> bodies = requests(40);
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  start();
  expect_same(one_by_one(*nodes_[0], bodies), expected);
  const double hits = metric(*nodes_[0], "mesh_prefix_cache_hits_total");
  expect_same(together(nodes_, bodies), expected);
  EXPECT_GT(metric(*nodes_[0], "mesh_prefix_cache_hits_total"), hits);
  const Json usage = Json::parse(complete(*nodes_[1], bodies[0]).body)["usage"];
  EXPECT_GE(usage["prompt_tokens_details"]["cached_tokens"], 64) << usage;
}

TEST_F(ServingTest, AClientThatLeavesFreesItsPagesOnEveryStageAtOnce) {
  start();
  milliseconds best = seconds(60);
  for (int attempt = 0; attempt < 3; ++attempt) {
    int pieces = 0;
    http(nodes_[0]->url() + "/v1/completions",
         R"({"prompt":"one two","ignore_eos":true,"max_tokens":450,"stream":true})",
         [&](std::string_view) { return ++pieces < 5; });
    const Clock::time_point left = Clock::now();
    for (const Node* node : nodes_)
      EXPECT_TRUE(eventually(seconds(5), [&] { return idle(*node); }));
    best = std::min(best, std::chrono::duration_cast<milliseconds>(Clock::now() - left));
  }
  EXPECT_LE(best.count(), 200);
}

}  // namespace
}  // namespace mesh::loopback
