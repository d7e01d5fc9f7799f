// Load and abuse against real nodes: slow readers, many streams, many short requests. Memory,
// descriptors and pages must come back to where they were.

#include <gtest/gtest.h>

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "mesh_process.h"
#include "stream_client.h"

namespace mesh::load {
namespace {

using Json = nlohmann::json;
using loopback::descriptors;
using loopback::eventually;
using loopback::http;
using loopback::metric;
using loopback::Node;
using std::chrono::milliseconds;
using std::chrono::seconds;

// MESH_LOAD=full runs the sizes of `./test --full`, otherwise a tenth of them.
bool full() {
  const char* value = std::getenv("MESH_LOAD");
  return value != nullptr && std::string(value) == "full";
}

long resident_kib(const Node& node) {
  std::ifstream file("/proc/" + std::to_string(node.process().pid()) + "/status");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("VmRSS:", 0) == 0) return std::stol(line.substr(6));
  return 0;
}

double cpu_seconds(const Node& node) {
  std::ifstream file("/proc/" + std::to_string(node.process().pid()) + "/stat");
  std::string text;
  std::getline(file, text);
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skip;
  for (int i = 0; i < 11; ++i) fields >> skip;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

bool idle(const Node& node) {
  const Json status = Json::parse(http(node.url() + "/mesh/status").body, nullptr, false);
  if (!status.is_object() || status["mesh"]["requests_running"] != 0) return false;
  for (const Json& one : status["nodes"])
    if (one["pages_used"] != 0) return false;
  return true;
}

std::string long_stream(int tokens) {
  return R"({"messages":[{"role":"user","content":"What is 17 + 25?"}],"temperature":0,)"
         R"("ignore_eos":true,"stream":true,"max_tokens":)" +
         std::to_string(tokens) + "}";
}

class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    mesh_ = loopback::start_mesh(scratch_, 3);
    for (const auto& node : mesh_) ASSERT_TRUE(node->ready());
  }
  void TearDown() override {
    for (const auto& node : mesh_)
      EXPECT_TRUE(eventually(seconds(5), [&] { return idle(*node); }))
          << http(node->url() + "/mesh/status").body;
  }
  loopback::ScratchDir scratch_;
  std::vector<std::unique_ptr<Node>> mesh_;
};

TEST_F(LoadTest, SlowReadersAreHeldBackAndEndedOthersLoseNothing) {
  const int streams = full() ? 200 : 24, slow_every = 4, early = full() ? 50 : 12;
  constexpr int kTokens = 450;
  const Node& node = *mesh_[0];
  const std::string path = "/v1/chat/completions", body = long_stream(kTokens);
  std::vector<std::unique_ptr<Stream>> one;
  one.push_back(std::make_unique<Stream>(node.url(), path, body, StreamOptions{}));
  ASSERT_TRUE(read_all(one, seconds(60)));
  const std::string expected = one[0]->text();
  ASSERT_TRUE(one[0]->done());
  ASSERT_GT(expected.size(), 400u);

  long early_kib = 0;
  std::size_t slow = 0;
  std::vector<std::unique_ptr<Stream>> all;
  for (int begin = 0; begin < streams; begin += early) {
    std::vector<std::unique_ptr<Stream>> wave;
    for (int i = begin; i < std::min(streams, begin + early); ++i) {
      StreamOptions options;
      if (i % slow_every == 3) options.bytes_per_second = 1;
      wave.push_back(std::make_unique<Stream>(node.url(), path, body, options));
    }
    ASSERT_TRUE(read_all(wave, seconds(120))) << "a stream neither ended nor was cut";
    if (begin == 0) early_kib = resident_kib(node);
    for (auto& stream : wave) all.push_back(std::move(stream));
  }
  const long late_kib = resident_kib(node);
  for (const auto& stream : all) {
    if (stream->slow()) {
      ++slow;
      EXPECT_TRUE(stream->has_error("slow_client")) << stream->received().substr(
          stream->received().size() - std::min<std::size_t>(stream->received().size(), 400));
      EXPECT_LT(stream->text().size(), expected.size());
      continue;
    }
    EXPECT_TRUE(stream->done());
    EXPECT_EQ(stream->text(), expected);
  }
  std::printf("%zu streams, %zu slow; resident %ld KiB after the first %d, %ld KiB at the end\n",
              all.size(), slow, early_kib, early, late_kib);
  EXPECT_GE(metric(node, "mesh_backpressure_total{where=\"reader\"}"), static_cast<double>(slow));
  EXPECT_GE(metric(node, "mesh_http_slow_clients_total"), static_cast<double>(slow));
  EXPECT_LE(late_kib, early_kib + 20 * 1024);
}

TEST_F(LoadTest, ManyShortRequestsLeaveNothingBehind) {
  const int requests = full() ? 10'000 : 600, workers = 8;
  auto ask = [&](int count) {
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int w = 0; w < workers; ++w)
      threads.emplace_back([&, w] {
        for (int i = 0; i < count / workers; ++i) {
          const std::string body = R"({"messages":[{"role":"user","content":"hi )" +
                                   std::to_string(i * workers + w) +
                                   R"("}],"max_tokens":2,"temperature":0})";
          const Node& node = *mesh_[static_cast<std::size_t>(i % 3)];
          if (http(node.url() + "/v1/chat/completions", body).status != 200) ++wrong;
        }
      });
    for (std::thread& thread : threads) thread.join();
    return wrong.load();
  };
  EXPECT_EQ(ask(requests / 10), 0);
  std::vector<long> before;
  std::vector<int> open;
  for (const auto& node : mesh_) {
    before.push_back(resident_kib(*node));
    open.push_back(descriptors(*node));
  }
  EXPECT_EQ(ask(requests), 0);
  for (std::size_t i = 0; i < mesh_.size(); ++i) {
    const long after = resident_kib(*mesh_[i]);
    std::printf("node %zu: resident %ld → %ld KiB, descriptors %d → %d\n", i, before[i], after,
                open[i], descriptors(*mesh_[i]));
    EXPECT_LE(after, before[i] + 20 * 1024);
    EXPECT_TRUE(eventually(seconds(5), [&] { return descriptors(*mesh_[i]) <= open[i] + 2; }));
  }
}

TEST_F(LoadTest, AnIdleMeshUsesAtMostOnePercentOfACorePerNode) {
  const auto span = full() ? seconds(20) : seconds(5);
  std::this_thread::sleep_for(seconds(2));  // what the start left to do
  std::vector<double> before;
  for (const auto& node : mesh_) before.push_back(cpu_seconds(*node));
  std::this_thread::sleep_for(span);
  for (std::size_t i = 0; i < mesh_.size(); ++i) {
    const double share = (cpu_seconds(*mesh_[i]) - before[i]) / static_cast<double>(span.count());
    std::printf("node %zu: %.2f %% of a core\n", i, share * 100);
    EXPECT_LE(share, 0.01);
  }
}

}  // namespace
}  // namespace mesh::load
