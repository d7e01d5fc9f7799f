#include "api/api_server.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/page.h"
#include "api/test_client.h"
#include "base/random.h"

namespace mesh::api {
namespace {

using nlohmann::json;

struct Generation {
  node::GenerateRequest request;
  std::shared_ptr<node::GenerateSink> sink;
};

// Keeps requests for the test to answer, and remembers cancellations.
class FakeGateway : public node::Gateway {
 public:
  FakeGateway() {
    status_.version = "0.1.0";
    status_.numeric_class = "cpu-1";
    status_.self_test = 0xABC;
    status_.cluster = "home";
    status_.model = "org/pocket";
    status_.fingerprint = 0x1234;
    status_.layers = 8;
    status_.context = 512;
    status_.kv_dtype = "bf16";
    status_.epoch = {3};
    status_.ready = true;
    status_.requests_running = 1;
    status_.tokens_per_s = 12.5;
    node::NodeStatus n;
    n.name = "laptop";
    n.self = true;
    n.state = "ready";
    n.http = "127.0.0.1:8642";
    n.peer = "127.0.0.1:8643";
    n.device = "cpu";
    n.layers = {0, 8};
    n.bytes_loaded = n.bytes_expected = 5;
    n.rows_computed = 7;
    n.pages_total = 10;
    n.pages_used = 2;
    status_.nodes = {n};
  }
  void generate(node::GenerateRequest request, std::shared_ptr<node::GenerateSink> sink) override {
    const std::lock_guard lock(mutex_);
    generations_.push_back({std::move(request), std::move(sink)});
    changed_.notify_all();
  }
  void cancel(const std::string& request_id) override {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(request_id);
    changed_.notify_all();
  }
  void set_reading(const std::string& request_id, bool reading) override {
    const std::lock_guard lock(mutex_);
    readers_.emplace_back(request_id, reading);
    changed_.notify_all();
  }
  // One token for each byte; its id is the byte.
  void tokenize(node::TokenizeRequest request,
                std::function<void(Result<std::vector<node::TokenText>>)> done) override {
    const auto* text = std::get_if<std::string>(&request.prompt);
    if (text == nullptr) return done(Error(Code::kInvalidArgument, "messages have no template"));
    std::vector<node::TokenText> tokens;
    if (request.add_special) tokens.push_back({0, "<s>", {}, {}});
    for (char c : *text) tokens.push_back({c, std::string(1, c), {}, {}});
    done(std::move(tokens));
  }
  void detokenize(std::vector<TokenId> tokens,
                  std::function<void(Result<std::string>)> done) override {
    std::string text;
    for (TokenId token : tokens) {
      if (token > 127) return done(Error(Code::kInvalidArgument, "tokens[0] is no token"));
      text.push_back(static_cast<char>(token));
    }
    done(std::move(text));
  }
  void metrics(std::function<void(std::string)> done) override { done("mesh_node_up 1\n"); }
  node::MeshStatus status() const override {
    const std::lock_guard lock(mutex_);
    return status_;
  }
  void change(const std::function<void(node::MeshStatus&)>& edit) {
    const std::lock_guard lock(mutex_);
    edit(status_);
  }
  Generation next() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return !generations_.empty(); })) return {};
    Generation out = std::move(generations_.front());
    generations_.pop_front();
    return out;
  }
  std::string next_cancelled() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return !cancelled_.empty(); })) return "";
    std::string out = std::move(cancelled_.front());
    cancelled_.pop_front();
    return out;
  }
  std::optional<std::pair<std::string, bool>> next_reader() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, kPatience, [&] { return !readers_.empty(); })) return std::nullopt;
    auto out = std::move(readers_.front());
    readers_.pop_front();
    return out;
  }
  std::size_t waiting() const {
    const std::lock_guard lock(mutex_);
    return generations_.size() + cancelled_.size();
  }

 private:
  static constexpr std::chrono::seconds kPatience{20};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Generation> generations_;
  std::deque<std::string> cancelled_;
  std::deque<std::pair<std::string, bool>> readers_;
  node::MeshStatus status_;
};

class FixedClock : public env::Clock {
 public:
  Instant now() const override { return {}; }
  std::int64_t unix_milliseconds() const override { return 1'700'000'000'123; }
};

class CountingRandom : public env::Random {
 public:
  void fill(std::span<std::byte> out) override {
    for (std::byte& b : out) b = static_cast<std::byte>(prng_.next());
  }

 private:
  Prng prng_{1};
};

const std::string kChat = R"({"messages":[{"role":"user","content":"hi"}]})";
const std::string kStream = R"({"stream":true,"messages":[{"role":"user","content":"hi"}]})";
const std::string kStreamUsage = R"({"stream":true,"stream_options":{"include_usage":true},)"
                                 R"("messages":[{"role":"user","content":"hi"}]})";
constexpr const char* kChatPath = "/v1/chat/completions";
constexpr node::Usage kUsage = {5, 3, 0};
const node::Timings kTimings = {{}, milliseconds(20), milliseconds(100)};

class ApiServerTest : public ::testing::Test {
 protected:
  std::uint16_t serve(ApiOptions options = {}) {
    options.port = 0;
    server_ = std::make_unique<ApiServer>(ApiWorld{gateway_, clock_, random_, events_}, options);
    const auto port = server_->listen();
    EXPECT_TRUE(port.ok()) << (port.ok() ? "" : port.error().message);
    server_port_ = port.ok() ? *port : std::uint16_t{0};
    return server_port_;
  }
  // The error object, checked for its form.
  static json error_of(const TestResponse& response) {
    const json body = json::parse(response.body, nullptr, false);
    EXPECT_TRUE(body.is_object() && body.size() == 1 && body.contains("error")) << response.body;
    if (!body.is_object() || !body.contains("error")) return {};
    const json& error = body["error"];
    for (const char* name : {"message", "type", "param", "code"})
      EXPECT_TRUE(error.contains(name)) << response.body;
    EXPECT_TRUE(error["message"].is_string() && error["type"].is_string());
    EXPECT_EQ(response.headers.at("content-type"), "application/json; charset=utf-8");
    return error;
  }
  static std::vector<std::string> events_of(const std::string& body) {
    std::vector<std::string> out;
    for (std::size_t at = 0; at < body.size();) {
      const std::size_t end = body.find("\n\n", at);
      EXPECT_NE(end, std::string::npos);
      if (end == std::string::npos) break;
      out.push_back(body.substr(at, end - at));
      at = end + 2;
    }
    return out;
  }
  static json data_of(const std::string& event) {
    EXPECT_EQ(event.substr(0, 6), "data: ");
    return json::parse(event.substr(6), nullptr, false);
  }

  FakeGateway gateway_;
  FixedClock clock_;
  CountingRandom random_;
  NullEvents events_;
  std::unique_ptr<ApiServer> server_;
  std::uint16_t server_port_ = 0;
};

TEST_F(ApiServerTest, AnswersAChat) {
  TestClient client(serve());
  for (const char* path : {kChatPath, "/chat/completions"}) {
    client.send(TestClient::text("POST", path, kChat));
    const Generation g = gateway_.next();
    ASSERT_TRUE(g.sink);
    EXPECT_EQ(std::get<node::ChatPrompt>(g.request.prompts.at(0)).messages_json,
              R"([{"role":"user","content":"hi"}])");
    g.sink->on_start({5, 0, 0});
    g.sink->on_piece(0, {"h\xC3\xA4", {}});
    g.sink->on_piece(0, {" \"x\"\n", {}});
    g.sink->on_choice_end(0, node::FinishReason::kStop, "");
    g.sink->on_end(kUsage, kTimings);
    const TestResponse response = client.read_response();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.headers.at("x-request-id"), g.request.request_id);
    json body = json::parse(response.body);
    EXPECT_EQ(body["id"], "chatcmpl-" + g.request.request_id.substr(4));
    EXPECT_EQ(body["system_fingerprint"].get<std::string>().substr(0, 3), "fp_");
    EXPECT_EQ(body["timings"]["predicted_per_second"], 20.0);
    for (const char* name : {"id", "system_fingerprint", "timings"}) body.erase(name);
    EXPECT_EQ(body, json::parse(R"({"object":"chat.completion","created":1700000000,
        "model":"org/pocket","choices":[{"index":0,"message":{"role":"assistant",
        "content":"hä \"x\"\n","refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],
        "usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,
        "prompt_tokens_details":{"cached_tokens":0}}})"));
  }
}

TEST_F(ApiServerTest, StreamsAChat) {
  TestClient client(serve());
  for (const bool usage : {false, true}) {
    client.send(TestClient::text("POST", kChatPath, usage ? kStreamUsage : kStream));
    const Generation g = gateway_.next();
    ASSERT_TRUE(g.sink);
    g.sink->on_start({5, 0, 0});
    g.sink->on_piece(0, {"a\xC3", {}});
    g.sink->on_piece(0, {"\xA4"
                         "b",
                         {}});
    g.sink->on_choice_end(0, node::FinishReason::kLength, "");
    g.sink->on_end(kUsage, kTimings);
    const TestResponse response = client.read_response();
    EXPECT_EQ(response.headers.at("content-type"), "text/event-stream; charset=utf-8");
    EXPECT_EQ(response.headers.at("cache-control"), "no-cache");
    EXPECT_EQ(response.headers.at("x-accel-buffering"), "no");
    std::vector<std::string> events = events_of(response.body);
    ASSERT_EQ(events.size(), usage ? 6u : 5u);
    EXPECT_EQ(events.back(), "data: [DONE]");
    events.pop_back();
    std::vector<json> chunks;
    for (const std::string& event : events) chunks.push_back(data_of(event));
    for (const json& chunk : chunks) {
      for (const char* name : {"id", "created", "model", "system_fingerprint"})
        EXPECT_EQ(chunk.at(name), chunks[0].at(name));
      EXPECT_EQ(chunk["object"], "chat.completion.chunk");
      EXPECT_EQ(chunk.contains("usage"), usage);
    }
    const auto choice = [&](int i) { return chunks[static_cast<std::size_t>(i)]["choices"][0]; };
    EXPECT_EQ(choice(0)["delta"], json::parse(R"({"role":"assistant","content":""})"));
    EXPECT_EQ(choice(1)["delta"], json::parse(R"({"content":"a"})"));
    EXPECT_EQ(choice(2)["delta"], json::parse(R"({"content":"äb"})"));
    EXPECT_EQ(choice(3)["delta"], json::object());
    EXPECT_EQ(choice(3)["finish_reason"], "length");
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(choice(i)["finish_reason"].is_null());
    if (usage) {
      EXPECT_TRUE(chunks[3]["usage"].is_null());
      EXPECT_EQ(chunks[4]["choices"], json::array());
      EXPECT_EQ(chunks[4]["usage"]["total_tokens"], 8);
    }
  }
}

TEST_F(ApiServerTest, SendsEveryTokenAtOnce) {
  TestClient client(serve());
  client.send(TestClient::text("POST", kChatPath, kStream));
  const Generation g = gateway_.next();
  ASSERT_TRUE(g.sink);
  g.sink->on_start({5, 0, 0});
  client.read_head();
  EXPECT_NE(client.read_chunk().find("\"role\":\"assistant\""), std::string::npos);
  for (const std::string text : {"one", "two"}) {
    g.sink->on_piece(0, {text, {}});
    EXPECT_NE(client.read_chunk().find("\"content\":\"" + text + "\""), std::string::npos);
  }
}

TEST_F(ApiServerTest, ReportsAFailureBeforeAndAfterTheFirstToken) {
  TestClient client(serve());
  client.send(TestClient::text("POST", kChatPath, kStream));
  Generation g = gateway_.next();
  gateway_.change([](node::MeshStatus& status) { status.retry_after_s = 7; });
  g.sink->on_error(Error(Code::kResourceExhausted, "256 requests wait already"));
  const TestResponse early = client.read_response();
  EXPECT_EQ(early.status, 429);
  EXPECT_EQ(early.headers.at("retry-after"), "7");
  EXPECT_EQ(error_of(early)["code"], "queue_full");

  client.send(TestClient::text("POST", kChatPath, kStream));
  g = gateway_.next();
  g.sink->on_start({5, 0, 0});
  g.sink->on_piece(0, {"partial", {}});
  g.sink->on_error(Error(Code::kDeadlineExceeded, "node tower did not answer"));
  const std::vector<std::string> events = events_of(client.read_response().body);
  ASSERT_EQ(events.size(), 4u);
  const json error = data_of(events[2])["error"];
  EXPECT_EQ(error["code"], "node_timeout");
  EXPECT_NE(error["message"].get<std::string>().find(g.request.request_id), std::string::npos);
  EXPECT_EQ(events[3], "data: [DONE]");
  EXPECT_EQ(client.request("GET", "/health").status, 200);  // the connection lives on
}

TEST_F(ApiServerTest, SaysWhichLayersAreMissing) {
  TestClient client(serve());
  gateway_.change([](node::MeshStatus& status) {
    status.ready = false;
    status.missing = {{3, 6}};
    status.waiting_for = "a node with 2 GB";
  });
  client.send(TestClient::text("POST", kChatPath, kChat));
  gateway_.next().sink->on_error(Error(Code::kUnavailable, "no full pipeline"));
  const TestResponse response = client.read_response();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.headers.count("retry-after"), 1u);
  EXPECT_EQ(error_of(response)["code"], "cluster_incomplete");
  EXPECT_NE(response.body.find("3:6"), std::string::npos);

  const TestResponse ready = client.request("GET", "/ready");
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(
      json::parse(ready.body),
      json::parse(R"({"ready":false,"missing_layers":["3:6"],"waiting_for":"a node with 2 GB"})"));
  EXPECT_EQ(client.request("GET", "/health").status, 200);

  gateway_.change([](node::MeshStatus& status) { status.model.clear(); });
  const TestResponse none = client.request("POST", kChatPath, kChat);
  EXPECT_EQ(none.status, 503);
  EXPECT_EQ(json::parse(client.request("GET", "/v1/models").body)["data"], json::array());
  EXPECT_EQ(gateway_.waiting(), 0u);
}

TEST_F(ApiServerTest, CancelsWhenTheClientGoes) {
  const std::uint16_t port = serve();
  for (const std::string& body : {kChat, kStream}) {
    TestClient client(port);
    client.send(TestClient::text("POST", kChatPath, body));
    const Generation g = gateway_.next();
    ASSERT_TRUE(g.sink);
    g.sink->on_start({5, 0, 0});
    g.sink->on_piece(0, {"x", {}});
    if (body == kStream) client.read_head();
    client.close();
    EXPECT_EQ(gateway_.next_cancelled(), g.request.request_id);
    g.sink->on_piece(0, {"into the void", {}});
    g.sink->on_choice_end(0, node::FinishReason::kStop, "");
    g.sink->on_end(kUsage, kTimings);
  }
}

TEST_F(ApiServerTest, DoesNotCancelWhatIsComplete) {
  TestClient client(serve());
  client.send(TestClient::text("POST", kChatPath, kStream));
  const Generation g = gateway_.next();
  g.sink->on_choice_end(0, node::FinishReason::kStop, "");
  g.sink->on_end(kUsage, kTimings);
  EXPECT_EQ(client.read_response().status, 200);
  client.close();
  server_.reset();
  EXPECT_EQ(gateway_.waiting(), 0u);
}

TEST_F(ApiServerTest, CancelsAndEndsASlowReader) {
  ApiOptions options;
  options.http.stream_buffer_bytes = 32 << 10;
  options.http.send_buffer_bytes = 4 << 10;
  TestClient client(serve(options), 4 << 10);
  client.send(TestClient::text("POST", kChatPath, kStream));
  const Generation g = gateway_.next();
  ASSERT_TRUE(g.sink);
  g.sink->on_start({5, 0, 0});
  // More than what socket buffers and the bound take together; the mesh is never blocked.
  for (int i = 0; i < 20'000; ++i) g.sink->on_piece(0, {"token ", {}});
  EXPECT_EQ(gateway_.next_cancelled(), g.request.request_id);
  const std::vector<std::string> events = events_of(client.read_response().body);
  ASSERT_GE(events.size(), 2u);
  EXPECT_EQ(data_of(events[events.size() - 2])["error"]["code"], "slow_client");
  EXPECT_EQ(events.back(), "data: [DONE]");
}

constexpr const char* kTextPath = "/v1/completions";

TEST_F(ApiServerTest, AnswersPlainCompletionsOfSeveralChoices) {
  TestClient client(serve());
  client.send(TestClient::text(
      "POST", kTextPath,
      R"({"prompt":["a","b"],"n":2,"stop":["END"],"stop_token_ids":[9],"logprobs":0})"));
  const Generation g = gateway_.next();
  ASSERT_TRUE(g.sink);
  EXPECT_EQ(g.request.prompts.size(), 2u);
  g.sink->on_start({5, 0, 2});
  for (const std::uint32_t choice : {3u, 0u, 1u, 2u})
    g.sink->on_piece(choice, {"t" + std::to_string(choice), {{7, "t", -1.0f, {}}}});
  g.sink->on_choice_end(2, node::FinishReason::kLength, "");
  g.sink->on_choice_end(0, node::FinishReason::kStop, "END");
  g.sink->on_choice_end(1, node::FinishReason::kStop, "9");
  g.sink->on_choice_end(3, node::FinishReason::kStop, "");
  g.sink->on_end({5, 4, 2}, {milliseconds(5), milliseconds(20), milliseconds(100)});
  const TestResponse response = client.read_response();
  EXPECT_EQ(response.headers.at("server-timing"), "queue;dur=5, prefill;dur=15, decode;dur=100");
  const json body = json::parse(response.body);
  EXPECT_EQ(body["id"], "cmpl-" + g.request.request_id.substr(4));
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
  EXPECT_EQ(body["timings"]["queue_ms"], 5.0);
  ASSERT_EQ(body["choices"].size(), 4u);
  const json scores = json::parse(R"({"tokens":["t"],"token_logprobs":[-1.0],
      "top_logprobs":[{"t":-1.0}],"text_offset":[0]})");
  const char* kReasons[] = {"stop", "stop", "length", "stop"};
  const json kStops[] = {"END", 9, nullptr, nullptr};
  for (std::size_t i = 0; i < 4; ++i)
    EXPECT_EQ(body["choices"][i], (json{{"index", i},
                                        {"text", "t" + std::to_string(i)},
                                        {"logprobs", scores},
                                        {"finish_reason", kReasons[i]},
                                        {"stop_reason", kStops[i]}}));
}

TEST_F(ApiServerTest, StreamsSeveralChoicesWithScores) {
  TestClient client(serve());
  client.send(TestClient::text(
      "POST", kChatPath,
      R"({"messages":[{"role":"user","content":"hi"}],"n":2,"stream":true,"logprobs":true,)"
      R"("top_logprobs":1,"stream_options":{"include_usage":true}})"));
  const Generation g = gateway_.next();
  ASSERT_TRUE(g.sink);
  g.sink->on_start({5, 0, 0});
  g.sink->on_piece(1, {"x", {{7, "x", -1.0f, {{7, "x", -1.0f}}}}});
  g.sink->on_piece(0, {"", {{8, "\xC3", -2.0f, {}}}});  // text that is held back has its score
  g.sink->on_piece(0, {"y", {}});
  g.sink->on_choice_end(1, node::FinishReason::kStop, "");
  g.sink->on_choice_end(0, node::FinishReason::kLength, "");
  g.sink->on_end(kUsage, kTimings);
  const TestResponse response = client.read_response();
  EXPECT_EQ(response.headers.at("server-timing").substr(0, 10), "queue;dur=");
  const std::vector<std::string> events = events_of(response.body);
  ASSERT_EQ(events.size(), 9u);
  std::vector<json> choices;
  for (std::size_t i = 0; i < 7; ++i) {
    const json chunk = data_of(events[i]);
    EXPECT_TRUE(chunk.at("usage").is_null());
    EXPECT_EQ(chunk.contains("timings"), i == 6);
    ASSERT_EQ(chunk["choices"].size(), 1u);
    choices.push_back(chunk["choices"][0]);
  }
  const auto expect = [&](std::size_t i, const char* text) {
    EXPECT_EQ(choices[i], json::parse(text)) << i;
  };
  expect(0, R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,
      "finish_reason":null})");
  expect(1, R"({"index":1,"delta":{"role":"assistant","content":""},"logprobs":null,
      "finish_reason":null})");
  expect(2, R"({"index":1,"delta":{"content":"x"},"logprobs":{"content":[{"token":"x",
      "logprob":-1.0,"bytes":[120],"top_logprobs":[{"token":"x","logprob":-1.0,"bytes":[120]}]}],
      "refusal":null},"finish_reason":null})");
  expect(3, R"({"index":0,"delta":{"content":""},"logprobs":{"content":[{"token":"\uFFFD",
      "logprob":-2.0,"bytes":[195],"top_logprobs":[]}],"refusal":null},"finish_reason":null})");
  expect(4, R"({"index":0,"delta":{"content":"y"},"logprobs":null,"finish_reason":null})");
  expect(5, R"({"index":1,"delta":{},"logprobs":null,"finish_reason":"stop","stop_reason":null})");
  expect(6, R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"length",
      "stop_reason":null})");
  EXPECT_EQ(data_of(events[7])["usage"]["total_tokens"], 8);
  EXPECT_EQ(events[8], "data: [DONE]");
}

TEST_F(ApiServerTest, CountsTokensInEveryChunk) {
  TestClient client(serve());
  client.send(TestClient::text(
      "POST", kTextPath,
      R"({"prompt":"a","stream":true,"stream_options":{"continuous_usage_stats":true}})"));
  const Generation g = gateway_.next();
  ASSERT_TRUE(g.sink);
  EXPECT_EQ(g.request.logprobs, 0u);  // pieces tell their tokens
  g.sink->on_start({5, 0, 0});
  for (int i = 0; i < 2; ++i) g.sink->on_piece(0, {"x", {{7, "x", -1.0f, {}}}});
  g.sink->on_choice_end(0, node::FinishReason::kStop, "");
  g.sink->on_end({5, 2, 0}, kTimings);
  const std::vector<std::string> events = events_of(client.read_response().body);
  ASSERT_EQ(events.size(), 4u);  // two texts, the end, [DONE]
  for (std::size_t i = 0; i < 3; ++i) {
    const json chunk = data_of(events[i]);
    EXPECT_EQ(chunk["usage"]["completion_tokens"], std::min<std::size_t>(i + 1, 2));
    EXPECT_EQ(chunk["usage"]["prompt_tokens"], 5);
    EXPECT_TRUE(chunk["choices"][0]["logprobs"].is_null());
  }
}

TEST_F(ApiServerTest, TellsTheMeshWhetherTheClientKeepsUp) {
  ApiOptions options;
  options.http.send_buffer_bytes = 4 << 10;
  options.http.stream_buffer_bytes = 8 << 20;
  TestClient client(serve(options), 4 << 10);
  client.send(TestClient::text("POST", kChatPath, kStream));
  const Generation g = gateway_.next();
  ASSERT_TRUE(g.sink);
  g.sink->on_start({5, 0, 0});
  const std::string part(4000, 'x');
  constexpr int kParts = 1000;  // beyond what socket buffers hide
  for (int i = 0; i < kParts; ++i) g.sink->on_piece(0, {part, {}});
  EXPECT_EQ(gateway_.next_reader(), std::make_pair(g.request.request_id, false));
  client.read_head();
  for (int i = 0; i < 1 + kParts; ++i) ASSERT_FALSE(client.read_chunk().empty());
  EXPECT_EQ(gateway_.next_reader(), std::make_pair(g.request.request_id, true));
  g.sink->on_choice_end(0, node::FinishReason::kStop, "");
  g.sink->on_end(kUsage, kTimings);
  std::string end;
  for (std::string chunk = client.read_chunk(); !chunk.empty(); chunk = client.read_chunk())
    end += chunk;
  EXPECT_NE(end.find("[DONE]"), std::string::npos);
  EXPECT_EQ(gateway_.waiting(), 0u);
}

TEST_F(ApiServerTest, EndsAReaderThatStaysBehind) {
  ApiOptions options;
  options.http.send_buffer_bytes = 4 << 10;
  options.http.stream_buffer_bytes = 8 << 20;
  options.http.slow_client = milliseconds(20);
  options.http.tick = milliseconds(5);
  TestClient client(serve(options), 4 << 10);
  client.send(TestClient::text("POST", kChatPath, kStream));
  const Generation g = gateway_.next();
  ASSERT_TRUE(g.sink);
  g.sink->on_start({5, 0, 0});
  const std::string part(4000, 'x');
  for (int i = 0; i < 1000; ++i) g.sink->on_piece(0, {part, {}});
  EXPECT_EQ(gateway_.next_cancelled(), g.request.request_id);
  const std::vector<std::string> events = events_of(client.read_response().body);
  ASSERT_GE(events.size(), 2u);
  EXPECT_EQ(data_of(events[events.size() - 2])["error"]["code"], "slow_client");
  EXPECT_EQ(events.back(), "data: [DONE]");
  TestClient other(server_port_);
  const std::string metrics = other.request("GET", "/metrics").body;
  EXPECT_NE(metrics.find("mesh_http_slow_clients_total 1\n"), std::string::npos) << metrics;
  EXPECT_NE(metrics.find("mesh_http_backpressure_total 1\n"), std::string::npos) << metrics;
}

TEST_F(ApiServerTest, TokenizesAndDetokenizes) {
  TestClient client(serve());
  TestResponse response =
      client.request("POST", "/tokenize", R"({"prompt":"ab","with_pieces":true})");
  EXPECT_EQ(json::parse(response.body),
            json::parse(R"({"tokens":[0,97,98],"count":3,"max_model_len":512,
                           "token_strs":["<s>","a","b"]})"));
  response = client.request("POST", "/tokenize", R"({"content":"a","add_special_tokens":false})");
  EXPECT_EQ(json::parse(response.body),
            json::parse(R"({"tokens":[97],"count":1,"max_model_len":512})"));
  response = client.request("POST", "/detokenize", R"({"tokens":[97,34]})");
  EXPECT_EQ(json::parse(response.body), json::parse(R"({"prompt":"a\"","content":"a\""})"));
  response = client.request("POST", "/detokenize", R"({"tokens":[1000]})");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(error_of(response)["param"], "tokens");
  response = client.request("POST", "/tokenize", R"({"messages":[{"role":"user","content":"x"}]})");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(error_of(response)["param"], "messages");
  EXPECT_EQ(client.request("POST", "/tokenize", R"({"prompt":"a","model":"other"})").status, 404);
  EXPECT_EQ(client.request("POST", "/tokenize", "[]").status, 400);
  EXPECT_EQ(client.request("GET", "/tokenize").status, 405);
}

TEST_F(ApiServerTest, ShowsMetrics) {
  ApiOptions options;
  options.api_key = "k";
  TestClient client(serve(options));
  EXPECT_EQ(client.request("GET", "/nothing").status, 401);
  const TestResponse response = client.request("GET", "/metrics");  // loopback: without a key
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(response.body.substr(0, 15), "mesh_node_up 1\n");
  EXPECT_NE(response.body.find("mesh_http_requests_total{status=\"4xx\"} 1\n"), std::string::npos);
  EXPECT_NE(response.body.find("mesh_http_connections 1\n"), std::string::npos);
}

TEST_F(ApiServerTest, NamesTheFieldOfAPromptThatIsTooLong) {
  TestClient client(serve());
  for (const bool chat : {true, false}) {
    client.send(TestClient::text("POST", chat ? kChatPath : kTextPath,
                                 chat ? kChat : R"({"prompt":"hi"})"));
    gateway_.next().sink->on_error(
        Error(Code::kInvalidArgument, "context_length_exceeded: 600 tokens of 512"));
    const json error = error_of(client.read_response());
    EXPECT_EQ(error["code"], "context_length_exceeded");
    EXPECT_EQ(error["param"], chat ? "messages" : "prompt");
  }
}

TEST_F(ApiServerTest, KeepsAWaitingStreamAlive) {
  ApiOptions options;
  options.patience = milliseconds(10);
  options.http.tick = milliseconds(5);
  TestClient client(serve(options));
  client.send(TestClient::text("POST", kChatPath, kStream));
  const Generation g = gateway_.next();  // not admitted yet
  EXPECT_EQ(client.read_head().status, 200);
  EXPECT_NE(client.read_chunk().find("assistant"), std::string::npos);
  EXPECT_EQ(client.read_chunk(), ": ping\n\n");
  g.sink->on_start({5, 0, 0});
  g.sink->on_choice_end(0, node::FinishReason::kStop, "");
  g.sink->on_end(kUsage, kTimings);
  std::string rest;
  for (std::string chunk = client.read_chunk(); !chunk.empty(); chunk = client.read_chunk())
    rest += chunk;
  EXPECT_EQ(rest.find("assistant"), std::string::npos);
  EXPECT_NE(rest.find("[DONE]"), std::string::npos);
}

TEST_F(ApiServerTest, RefusesBadRequests) {
  TestClient client(serve());
  TestResponse response = client.request("POST", kChatPath, "{\"messages\":");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(error_of(response)["type"], "invalid_request_error");
  response = client.request("POST", kChatPath, R"({"messages":[],"top_p":0.5})");
  EXPECT_EQ(error_of(response)["param"], "messages");
  response = client.request("POST", kChatPath, std::string(100'000, '['));
  EXPECT_EQ(response.status, 400);
  EXPECT_NE(response.body.find("deeper"), std::string::npos);
  response = client.request("POST", kChatPath,
                            R"({"model":"gpt","messages":[{"role":"user","content":"hi"}]})");
  EXPECT_EQ(response.status, 404);
  json error = error_of(response);
  EXPECT_EQ(error["code"], "model_not_found");
  EXPECT_EQ(error["param"], "model");
  EXPECT_NE(error["message"].get<std::string>().find("org/pocket"), std::string::npos);
  EXPECT_EQ(response.headers.at("x-request-id").substr(0, 4), "req-");
  EXPECT_EQ(gateway_.waiting(), 0u);
}

TEST_F(ApiServerTest, ReportsTransportErrorsAsObjects) {
  ApiOptions options;
  options.http.body_bytes = 10;
  const std::uint16_t port = serve(options);
  TestClient large(port), broken(port);
  EXPECT_EQ(error_of(large.request("POST", kChatPath, std::string(11, 'x')))["code"],
            "request_too_large");
  broken.send("?\r\n\r\n");
  EXPECT_EQ(error_of(broken.read_response())["type"], "invalid_request_error");
}

TEST_F(ApiServerTest, ListsTheModel) {
  TestClient client(serve());
  const json list = json::parse(client.request("GET", "/v1/models").body);
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 1u);
  EXPECT_EQ(list["data"][0],
            json::parse(R"({"id":"org/pocket","object":"model","created":1700000000,
      "owned_by":"toolkit-mesh","max_model_len":512,"meta":{"layers":8,"ready":true}})"));
  for (const char* path : {"/v1/models/org/pocket", "/v1/models/org%2Fpocket"})
    EXPECT_EQ(json::parse(client.request("GET", path).body), list["data"][0]);
  const TestResponse unknown = client.request("GET", "/v1/models/org/other");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(error_of(unknown)["code"], "model_not_found");
}

TEST_F(ApiServerTest, ShowsTheMesh) {
  TestClient client(serve());
  EXPECT_EQ(json::parse(client.request("GET", "/mesh/status").body), json::parse(R"({
    "mesh":{"version":"0.1.0","numeric_class":"cpu-1","self_test":"0000000000000abc",
      "cluster":"home","epoch":3,"ready":true,"layers":8,"missing_layers":[],"waiting_for":"",
      "tokens_per_s":12.5,"requests_running":1,"requests_waiting":0},
    "model":{"name":"org/pocket","fingerprint":"0000000000001234","layers":8,"context":512,
      "kv_dtype":"bf16"},
    "nodes":[{"id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","name":"laptop",
      "self":true,"state":"ready","problem":"","http":"127.0.0.1:8642","peer":"127.0.0.1:8643",
      "device":"cpu","layers":[0,8],"bytes_loaded":5,"bytes_expected":5,"rows_computed":7,
      "pages_total":10,"pages_used":2,"tokens_per_s":0.0,"rtt_ms":0.0}]})"));
  EXPECT_EQ(client.request("GET", "/health").body, R"({"status":"ok"})");
  EXPECT_EQ(client.request("GET", "/ready").status, 200);
  EXPECT_EQ(json::parse(client.request("GET", "/version").body)["numeric_class"], "cpu-1");
}

TEST_F(ApiServerTest, NamesWrongRoutesAndMethods) {
  TestClient client(serve());
  TestResponse response = client.request("POST", "/chat/completion", "{}");
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(error_of(response)["message"],
            "There is no /chat/completion here. It serves POST /v1/chat/completions, "
            "/v1/completions, /tokenize and /detokenize, and GET /v1/models, /mesh/status, "
            "/metrics, /health, /ready and /version.");
  response = client.request("POST", "/v1/embeddings", "{}");
  EXPECT_EQ(response.status, 404);
  EXPECT_EQ(error_of(response)["code"], "not_built");
  response = client.request("GET", kChatPath);
  EXPECT_EQ(response.status, 405);
  EXPECT_EQ(response.headers.at("allow"), "POST, OPTIONS");
  error_of(response);
  response = client.request("DELETE", "/v1/models/org/pocket");
  EXPECT_EQ(response.status, 405);
  EXPECT_EQ(response.headers.at("allow"), "GET, HEAD, OPTIONS");
  response = client.request("HEAD", "/health");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-length"), "15");
  EXPECT_EQ(client.request("HEAD", "/nothing").status, 404);
}

TEST_F(ApiServerTest, ChecksTheHostNameOnLoopback) {
  TestClient client(serve());
  for (const char* host : {"localhost", "localhost:8642", "127.0.0.1:1", "[::1]:8642"})
    EXPECT_EQ(client.request("GET", "/health", "", "Host: " + std::string(host) + "\r\n").status,
              200);
  const TestResponse response = client.request("GET", "/health", "", "Host: evil.example\r\n");
  EXPECT_EQ(response.status, 403);
  EXPECT_EQ(error_of(response)["code"], "host_not_allowed");
  EXPECT_NE(response.body.find("evil.example"), std::string::npos);
}

TEST_F(ApiServerTest, RefusesForeignPages) {
  const std::uint16_t port = serve();
  TestClient client(port);
  const TestResponse foreign =
      client.request("POST", kChatPath, kChat, "Origin: https://evil.example\r\n");
  EXPECT_EQ(foreign.status, 403);
  EXPECT_EQ(error_of(foreign)["code"], "origin_not_allowed");
  const TestResponse preflight =
      client.request("OPTIONS", kChatPath, "", "Origin: https://evil.example\r\n");
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.headers.count("access-control-allow-origin"), 0u);
  EXPECT_EQ(client.request("POST", kChatPath, "{}", "Origin: http://localhost\r\n").status, 400);
  EXPECT_EQ(gateway_.waiting(), 0u);
}

TEST_F(ApiServerTest, AllowsConfiguredOrigins) {
  ApiOptions options;
  options.cors_origins = {"https://chat.example"};
  TestClient client(serve(options));
  const TestResponse preflight = client.request(
      "OPTIONS", kChatPath, "",
      "Origin: https://chat.example\r\nAccess-Control-Request-Headers: authorization\r\n");
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.headers.at("access-control-allow-origin"), "https://chat.example");
  EXPECT_EQ(preflight.headers.at("access-control-allow-headers"), "authorization");
  EXPECT_EQ(client.request("POST", kChatPath, "{}", "Origin: https://other.example\r\n").status,
            403);
}

TEST_F(ApiServerTest, AsksForTheKey) {
  ApiOptions options;
  options.api_key = "sk-mesh-secret";
  TestClient client(serve(options));
  for (const char* path : {"/health", "/ready", "/", "/app.js"})
    EXPECT_EQ(client.request("GET", path).status, 200) << path;
  TestResponse response = client.request("GET", "/mesh/status");
  EXPECT_EQ(response.status, 401);
  EXPECT_EQ(error_of(response)["type"], "authentication_error");
  for (const char* header :
       {"Authorization: Bearer sk-mesh-wrong!\r\n", "x-api-key: sk-mesh-wrong!\r\n",
        "x-api-key: sk-mesh-secret2\r\n", "Authorization: Bearer sk-mesh\r\n"}) {
    response = client.request("POST", kChatPath, kChat, header);
    EXPECT_EQ(response.status, 401) << header;
    EXPECT_EQ(error_of(response)["code"], "invalid_api_key");
    EXPECT_NE(response.body.find("sk-mesh"), std::string::npos);
    EXPECT_EQ(response.body.find("sk-mesh-"), std::string::npos);  // only 7 characters are shown
  }
  for (const char* header :
       {"Authorization: Bearer sk-mesh-secret\r\n", "authorization: bearer sk-mesh-secret\r\n",
        "x-api-key: sk-mesh-secret\r\n"})
    EXPECT_EQ(client.request("GET", "/v1/models", "", header).status, 200) << header;
  EXPECT_EQ(client.request("GET", "/no/such").status, 401);
  EXPECT_EQ(gateway_.waiting(), 0u);
}

TEST_F(ApiServerTest, DoesNotLeaveLoopbackWithoutAKey) {
  ApiOptions options;
  options.host = "0.0.0.0";
  options.port = 0;
  ApiServer open({gateway_, clock_, random_, events_}, options);
  const auto refused = open.listen();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kPermissionDenied);

  options.api_key = "k";
  ApiServer locked({gateway_, clock_, random_, events_}, options);
  const auto port = locked.listen();
  ASSERT_TRUE(port.ok()) << port.error().message;
  TestClient client(*port);  // with a key, any host name will do
  EXPECT_EQ(client.request("GET", "/metrics", "", "Host: mesh.lan\r\n").status, 401);
  EXPECT_EQ(client.request("GET", "/version", "", "Host: mesh.lan\r\nx-api-key: k\r\n").status,
            200);
}

TEST_F(ApiServerTest, ServesThePage) {
  TestClient client(serve());
  std::size_t bytes = 0;
  for (const PageFile& file : page_files()) {
    const TestResponse response = client.request("GET", file.path);
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, file.text);
    EXPECT_EQ(response.headers.at("content-type"), file.type);
    EXPECT_EQ(response.headers.at("content-security-policy").substr(0, 18), "default-src 'self'");
    EXPECT_EQ(
        client
            .request("GET", file.path, "", "If-None-Match: " + response.headers.at("etag") + "\r\n")
            .status,
        304);
    EXPECT_EQ(file.text.find("innerHTML"), std::string_view::npos);
    EXPECT_EQ(file.text.find("https://"), std::string_view::npos);
    EXPECT_FALSE(file.text.empty());
    bytes += file.text.size();
  }
  EXPECT_LE(bytes, 25u << 10);
}

TEST_F(ApiServerTest, StopsWhileAnswering) {
  TestClient client(serve());
  client.send(TestClient::text("POST", kChatPath, kStream));
  const Generation g = gateway_.next();
  ASSERT_TRUE(g.sink);
  g.sink->on_start({5, 0, 0});
  server_.reset();
  EXPECT_EQ(gateway_.next_cancelled(), g.request.request_id);
  g.sink->on_piece(0, {"late", {}});
  g.sink->on_error(Error(Code::kInternal, "late"));
}

TEST_F(ApiServerTest, ServesManyStreamsAtOnce) {
  const std::uint16_t port = serve();
  constexpr int kClients = 24, kTokens = 50;
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<TestClient>(port));
    clients.back()->send(TestClient::text("POST", kChatPath, kStream));
  }
  std::vector<Generation> generations;
  for (int i = 0; i < kClients; ++i) generations.push_back(gateway_.next());
  std::thread loop([&] {
    for (int t = 0; t < kTokens; ++t)
      for (const Generation& g : generations) g.sink->on_piece(0, {std::to_string(t) + ",", {}});
    for (const Generation& g : generations) {
      g.sink->on_choice_end(0, node::FinishReason::kStop, "");
      g.sink->on_end(kUsage, kTimings);
    }
  });
  std::string expected;
  for (int t = 0; t < kTokens; ++t) expected += std::to_string(t) + ",";
  for (const auto& client : clients) {
    std::string text;
    for (const std::string& event : events_of(client->read_response().body)) {
      if (event == "data: [DONE]") continue;
      text += data_of(event)["choices"][0]["delta"].value("content", "");
    }
    EXPECT_EQ(text, expected);
  }
  loop.join();
}

}  // namespace
}  // namespace mesh::api
