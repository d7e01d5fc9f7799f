// Many requests at once over real processes: the answers are those of one request alone, to the
// byte, and the metrics say that batches, micro-batches, preemption and prefix reuse took part.
// Then what a client that leaves, a stage that hangs and a node that is asked to end leave behind.

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "mesh_process.h"

namespace mesh::loopback {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

using Nodes = std::vector<const Node*>;

constexpr std::size_t kPosition = 512;  // that prompt and answer stay below
constexpr const char* kUsedPages = "mesh_pages{state=\"used\"}";

// Nothing of any request is left, by the node's own word.
bool idle(const Node& node) {
  const Reply reply = http(node.url() + "/mesh/status");
  const Json status = Json::parse(reply.body, nullptr, false);
  if (!status.is_object() || status["mesh"]["requests_running"] != 0 ||
      status["mesh"]["requests_waiting"] != 0)
    return false;
  for (const char* name : {kUsedPages, "mesh_requests_running", "mesh_requests_waiting",
                           "mesh_parked_sequences", "mesh_micro_batches_in_flight"})
    if (metric(node, name) != 0) return false;
  return true;
}

Reply complete(const Node& node, const std::string& body) {
  return http(node.url() + "/v1/completions", body);
}

// The bytes of the choices, with their texts and scores; the whole body when there are none.
std::string choices(const Reply& reply) {
  const std::size_t begin = reply.body.find("\"choices\":"), end = reply.body.rfind(",\"usage\"");
  if (reply.status != 200 || begin == std::string::npos || end == std::string::npos)
    return std::to_string(reply.status) + " " + reply.body;
  return reply.body.substr(begin, end - begin);
}

Json usage(const Reply& reply) {
  const Json json = Json::parse(reply.body, nullptr, false);
  return json.is_object() ? json.value("usage", Json::object()) : Json::object();
}

std::size_t cached_tokens(const Reply& reply) {
  const Json all = usage(reply);
  return all.contains("prompt_tokens_details")
             ? all["prompt_tokens_details"].value("cached_tokens", std::size_t{0})
             : 0;
}

// More than two pages of tokens.
std::string long_beginning() {
  std::string text;
  for (int i = 0; i < 12; ++i) text += "What is the capital of France? The capital is Paris. ";
  return text;
}

std::string completion(const std::string& prompt, int tokens, const std::string& options) {
  return "{\"prompt\":" + Json(prompt).dump() +
         ",\"ignore_eos\":true,\"max_tokens\":" + std::to_string(tokens) + "," + options + "}";
}

// Eight requests: every second begins with the same long text; all options of sampling.
std::vector<std::string> mixed_requests(int tokens) {
  const char* options[] = {
      R"("temperature":1,"seed":1)",
      R"("temperature":1,"seed":2,"repetition_penalty":1.2,"presence_penalty":0.5,)"
      R"("frequency_penalty":0.3)",
      R"("temperature":1,"seed":3,"top_k":20,"top_p":0.9,"min_p":0.02)",
      R"("temperature":1,"seed":4,"n":2)",
      R"("temperature":1,"seed":5,"logprobs":2,"repetition_penalty":1.1,"presence_penalty":-0.4,)"
      R"("frequency_penalty":0.2,"logit_bias":{"16":2.5,"17":-100})",
      R"("temperature":1,"seed":6,"logit_bias":{"16":2.5,"17":-100})",
      R"("temperature":1,"seed":7,"logprobs":2,"n":2,"min_p":0.01)",
      R"("temperature":0,"logprobs":2,"frequency_penalty":1.5)"};
  const std::string shared = long_beginning();
  std::vector<std::string> out;
  for (std::size_t i = 0; i < 8; ++i) {
    std::string prompt = i % 2 == 0 ? shared : "";
    for (std::size_t word = 0; word <= 3 * i; ++word) prompt += std::to_string(7 * i + word) + " ";
    out.push_back(completion(prompt, tokens, options[i]));
  }
  return out;
}

std::vector<std::string> short_requests(int count, int choices_each, int tokens) {
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i)
    out.push_back(completion("one two " + std::to_string(i), tokens,
                             "\"temperature\":1,\"n\":" + std::to_string(choices_each) +
                                 ",\"seed\":" + std::to_string(100 + i)));
  return out;
}

// Far from over when its first pieces are there: a client that does not read holds it back.
std::string endless_stream() {
  return completion("one two three", 1900, R"("temperature":1,"seed":9,"n":4,"stream":true)");
}

std::vector<std::string> one_by_one(const Node& node, const std::vector<std::string>& bodies) {
  std::vector<std::string> out;
  for (const std::string& body : bodies) out.push_back(choices(complete(node, body)));
  return out;
}

std::vector<std::string> together(const Nodes& nodes, const std::vector<std::string>& bodies) {
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

// How a stream ended.
struct StreamEnd {
  std::string error, error_type;
  std::vector<std::string> finishes;
  bool done = false;
  Clock::time_point at;
};

StreamEnd parse_end(const std::string& body) {
  StreamEnd out;
  out.at = Clock::now();
  std::istringstream lines(body);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("data: ", 0) != 0) continue;
    if (line == "data: [DONE]") {
      out.done = true;
      continue;
    }
    const Json json = Json::parse(line.substr(6), nullptr, false);
    if (!json.is_object()) continue;
    if (json.contains("error")) {
      out.error = json["error"].value("message", "");
      out.error_type = json["error"].value("type", "");
    }
    if (!json.contains("choices")) continue;
    for (const Json& choice : json["choices"])
      if (choice["finish_reason"].is_string()) out.finishes.push_back(choice["finish_reason"]);
  }
  return out;
}

// Rows of the decode steps since `before`, a mean over steps.
struct DecodeSteps {
  explicit DecodeSteps(const Node& node)
      : rows(metric(node, "mesh_decode_batch_rows_sum")),
        steps(metric(node, "mesh_decode_batch_rows_count")) {}
  double mean_since(const DecodeSteps& before) const {
    return (rows - before.rows) / std::max(1.0, steps - before.steps);
  }
  double rows, steps;
};

class ServingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    alone_ = std::make_unique<Node>(scratch_, "alone", "serve", std::vector<std::string>{});
    ASSERT_TRUE(alone_->listening() && alone_->ready()) << alone_->process().output();
    watch(*alone_);
  }

  // Three nodes, the first with the first layers.
  void start(const std::vector<std::string>& arguments = {}) {
    std::vector<std::vector<std::string>> each(3, arguments);
    const char* layers[] = {"0:3", "3:6", "6:8"};
    for (std::size_t i = 0; i < 3; ++i) each[i].insert(each[i].end(), {"--layers", layers[i]});
    mesh_ = start_mesh(scratch_, 3, each);
    for (const auto& node : mesh_) {
      ASSERT_TRUE(node->ready()) << node->process().output();
      nodes_.push_back(node.get());
    }
    for (const Node* node : nodes_) watch(*node);
  }

  // From here on what it holds open counts.
  void watch(const Node& node) {
    ASSERT_TRUE(eventually(seconds(5), [&] { return idle(node); }));
    descriptors_[&node] = descriptors(node);
  }

  // Not of interest any more: it has ended.
  void forget(const Node& node) { descriptors_.erase(&node); }

  void TearDown() override {
    for (const auto& [node, before] : descriptors_) {
      EXPECT_TRUE(eventually(seconds(5), [&, n = node] { return idle(*n); }))
          << http(node->url() + "/metrics").body << node->process().output();
      EXPECT_TRUE(eventually(
          seconds(5), [&, n = node, b = before] { return std::abs(descriptors(*n) - b) <= 2; }))
          << descriptors(*node) << " descriptors of " << node->url() << ", before " << before;
    }
  }

  ScratchDir scratch_;
  std::unique_ptr<Node> alone_;
  std::vector<std::unique_ptr<Node>> mesh_;
  Nodes nodes_;
  std::map<const Node*, int> descriptors_;
};

TEST_F(ServingTest, EightAtOnceOverThreeStagesAnswerAsEachAlone) {
  const std::vector<std::string> bodies = mixed_requests(200);
  std::vector<std::string> expected;
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    const Reply reply = complete(*alone_, bodies[i]);
    ASSERT_EQ(reply.status, 200) << reply.body;
    const std::size_t prompt = usage(reply).value("prompt_tokens", std::size_t{0});
    EXPECT_GT(prompt, i % 2 == 0 ? 128u : 0u);
    EXPECT_LT(prompt + 200, kPosition);
    expected.push_back(choices(reply));
  }
  EXPECT_NE(expected[0], expected[2]);
  start();
  expect_same(together(nodes_, bodies), expected);
  expect_same(together({nodes_[2], nodes_[0]}, bodies), expected);
}

TEST_F(ServingTest, EightStreamsShareTheStepsOfOneStage) {
  const std::vector<std::string> bodies = short_requests(8, 1, 480);
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  const DecodeSteps before(*alone_);
  expect_same(together({alone_.get()}, bodies), expected);
  EXPECT_GE(DecodeSteps(*alone_).mean_since(before), 6) << "rows of a decode step";
}

TEST_F(ServingTest, StagesWorkOnSeveralMicroBatchesAtOnce) {
  // Many, as they are spread over as many batches as fill the time of a turn of the ring.
  const std::vector<std::string> bodies = short_requests(16, 5, 160);
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  start();
  std::vector<DecodeSteps> before;
  for (const Node* node : nodes_) before.emplace_back(*node);
  std::atomic<bool> over{false};
  double in_flight = 0;
  std::thread watcher([&] {
    while (!over) {
      in_flight = std::max(in_flight, metric(*nodes_[0], "mesh_micro_batches_in_flight"));
      std::this_thread::sleep_for(milliseconds(5));
    }
  });
  const std::vector<std::string> got = together(nodes_, bodies);
  over = true;
  watcher.join();
  expect_same(got, expected);
  EXPECT_GE(in_flight, 2) << "micro-batches of stage 0 under way at once";
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const double mean = DecodeSteps(*nodes_[i]).mean_since(before[i]);
    std::printf("stage %zu: %.1f rows a decode step, %.0f in flight\n", i, mean, in_flight);
    EXPECT_GE(mean, 6) << "rows of a decode step of stage " << i;
  }
}

TEST_F(ServingTest, PreemptedSequencesGoOnWithTheSameTokens) {
  // Pages for two to three of the ten sequences, which grow beyond what they reserve at first.
  const std::vector<std::string> bodies = mixed_requests(340);
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  start({"--kv-memory", "700K"});
  const Json status = Json::parse(http(nodes_[0]->url() + "/mesh/status").body);
  for (const Json& node : status["nodes"]) EXPECT_GT(node["pages_total"], kPosition / 64);
  expect_same(together({nodes_[0]}, bodies), expected);
  EXPECT_GT(metric(*nodes_[0], "mesh_preemptions_total"), 0);
  // Entries that know nothing of each other's sequences.
  expect_same(together(nodes_, bodies), expected);
}

TEST_F(ServingTest, ACachedBeginningChangesNothing) {
  const std::vector<std::string> all = mixed_requests(100);
  std::vector<std::string> bodies;
  for (std::size_t i = 0; i < all.size(); i += 2) bodies.push_back(all[i]);
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  start();
  const Reply cold = complete(*nodes_[1], bodies[0]);
  EXPECT_EQ(cached_tokens(cold), 0u);
  EXPECT_EQ(choices(cold), expected[0]);
  for (const Node* node : nodes_) EXPECT_EQ(metric(*node, "mesh_prefix_cache_hits_total"), 0);
  for (std::size_t i = 0; i < bodies.size(); ++i) {
    // Whichever entry it comes through: the pages are the stages'.
    const Reply warm = complete(*nodes_[i % 3], bodies[i]);
    EXPECT_GE(cached_tokens(warm), 128u) << warm.body;
    EXPECT_EQ(choices(warm), expected[i]) << "request " << i;
  }
  expect_same(together(nodes_, bodies), expected);
  for (const Node* node : nodes_) {
    EXPECT_GE(metric(*node, "mesh_prefix_cache_hits_total"), 128);
    EXPECT_GT(metric(*node, "mesh_pages{state=\"cached\"}"), 0);
  }
}

TEST_F(ServingTest, AClientThatLeavesFreesItsPagesOnEveryStageAtOnce) {
  start();
  milliseconds best = seconds(60);
  for (int attempt = 0; attempt < 3; ++attempt) {
    int pieces = 0;
    Clock::time_point left;
    http(nodes_[0]->url() + "/v1/completions", endless_stream(), [&](std::string_view) {
      if (++pieces < 5) return true;
      for (const Node* node : nodes_) EXPECT_GT(metric(*node, kUsedPages), 0);
      left = Clock::now();
      return false;
    });
    milliseconds slowest{0};
    for (const Node* node : nodes_) {
      EXPECT_TRUE(eventually(seconds(5), [&] { return metric(*node, kUsedPages) == 0; }));
      slowest = std::max(slowest, std::chrono::duration_cast<milliseconds>(Clock::now() - left));
    }
    best = std::min(best, slowest);
    for (const Node* node : nodes_)
      EXPECT_TRUE(eventually(seconds(5), [&] { return idle(*node); }));
  }
  std::printf("pages free after %lld ms\n", static_cast<long long>(best.count()));
  EXPECT_LE(best.count(), 200);
}

TEST_F(ServingTest, AStageThatHangsEndsItsStreamsAndServesAgainWhenItGoesOn) {
  const std::vector<std::string> bodies = mixed_requests(60);
  const std::vector<std::string> expected = one_by_one(*alone_, bodies);
  start();
  const Node& stage = *nodes_[1];
  const Nodes entries = {nodes_[0], nodes_[2], nodes_[0]};
  std::atomic<int> streaming{0};
  std::atomic<bool> stopped{false};
  std::vector<StreamEnd> ends(entries.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < entries.size(); ++i)
    threads.emplace_back([&, i] {
      int pieces = 0;
      const Reply reply =
          http(entries[i]->url() + "/v1/completions", endless_stream(), [&](std::string_view) {
            if (++pieces != 5) return true;
            ++streaming;
            eventually(seconds(10), [&] { return stopped.load(); });
            return true;
          });
      ends[i] = parse_end(reply.body);
    });
  EXPECT_TRUE(eventually(seconds(10), [&] { return streaming == 3; }));
  stage.process().signal(SIGSTOP);
  const Clock::time_point at = Clock::now();
  stopped = true;
  for (std::thread& thread : threads) thread.join();
  for (const StreamEnd& end : ends) {
    EXPECT_LT(end.at - at, seconds(3));
    EXPECT_NE(end.error.find("layers 3:6"), std::string::npos) << end.error;
    EXPECT_FALSE(end.error_type.empty());
    EXPECT_TRUE(end.done);
  }
  EXPECT_EQ(http(nodes_[0]->url() + "/ready").status, 503);
  stage.process().signal(SIGCONT);
  for (const auto& node : mesh_) ASSERT_TRUE(node->ready()) << node->process().output();
  expect_same(together(nodes_, bodies), expected);
}

TEST_F(ServingTest, AnEntryThatIsAskedToEndFinishesItsStreamFirst) {
  start();
  int pieces = 0;
  Reply late;
  const Reply reply =
      http(nodes_[0]->url() + "/v1/completions", endless_stream(), [&](std::string_view) {
        if (++pieces != 5) return true;
        nodes_[0]->process().signal(SIGTERM);
        eventually(seconds(5), [&] {
          late = complete(*nodes_[0], completion("one", 1, R"("temperature":0)"));
          return late.status != 200;
        });
        return true;
      });
  EXPECT_EQ(late.status, 503) << late.body;
  const StreamEnd end = parse_end(reply.body);
  EXPECT_EQ(end.error, "");
  EXPECT_EQ(end.finishes, std::vector<std::string>(4, "length"));
  EXPECT_TRUE(end.done);
  EXPECT_EQ(mesh_[0]->process().wait(seconds(10)), 0) << mesh_[0]->process().output();
  forget(*nodes_[0]);
}

TEST_F(ServingTest, AnEntryThatIsAskedTwiceToEndDoesSoAtOnce) {
  start();
  int pieces = 0;
  Clock::time_point asked_twice;
  http(nodes_[0]->url() + "/v1/completions", endless_stream(), [&](std::string_view) {
    if (++pieces != 5) return true;
    nodes_[0]->process().signal(SIGTERM);
    EXPECT_TRUE(eventually(seconds(5), [&] {
      return nodes_[0]->process().output().find("Ctrl-C again") != std::string::npos;
    }));
    nodes_[0]->process().signal(SIGTERM);
    asked_twice = Clock::now();
    EXPECT_EQ(mesh_[0]->process().wait(seconds(10)), 143) << mesh_[0]->process().output();
    EXPECT_LT(Clock::now() - asked_twice, seconds(1));
    return true;
  });
  EXPECT_NE(asked_twice, Clock::time_point{});
  forget(*nodes_[0]);
}

}  // namespace
}  // namespace mesh::loopback
