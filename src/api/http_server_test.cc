#include "api/http_server.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "api/http_text.h"
#include "api/json_text.h"
#include "api/test_client.h"
#include "base/random.h"

namespace mesh::api {
namespace {

// A value that one thread sets and another waits for, with a deadline instead of a sleep.
template <typename T>
class Mailbox {
 public:
  void put(T value) {
    const std::lock_guard lock(mutex_);
    values_.push_back(std::move(value));
    changed_.notify_all();
  }
  std::optional<T> take() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !values_.empty(); }))
      return std::nullopt;
    T out = std::move(values_.front());
    values_.pop_front();
    return out;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<T> values_;
};

struct Held {
  HttpRequest request;
  HttpResponder responder;
};

// Answers /echo with method, path and body; /hold is handed to the test; anything else: 204.
class HttpServerTest : public ::testing::Test {
 protected:
  std::uint16_t serve(HttpOptions options = {}) {
    server_ = std::make_unique<HttpServer>(
        std::move(options), [this](HttpRequest request, HttpResponder responder) {
          if (request.path == "/hold") return held_.put({std::move(request), responder});
          if (request.path == "/throw") throw std::runtime_error("deliberate");
          if (request.path == "/drop") return;
          if (request.path != "/echo") {
            responder.send({204, {}, ""});
            return;
          }
          responder.send({200,
                          {{"X-Remote", request.remote}, {"X-Query", request.query}},
                          request.method + " " + request.path + " " + request.body});
        });
    const auto port = server_->listen("127.0.0.1", 0);
    EXPECT_TRUE(port.ok());
    return port.ok() ? *port : std::uint16_t{0};
  }

  Mailbox<Held> held_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, ServesManyRequestsOnOneConnection) {
  TestClient client(serve());
  for (int i = 0; i < 3; ++i) {
    const TestResponse response = client.request("POST", "/echo?a=b", "body" + std::to_string(i));
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, "POST /echo body" + std::to_string(i));
    EXPECT_EQ(response.headers.at("x-remote"), "127.0.0.1");
    EXPECT_EQ(response.headers.at("x-query"), "a=b");
    EXPECT_EQ(response.headers.count("connection"), 0u);
    EXPECT_EQ(response.headers.count("date"), 1u);
  }
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  TestClient client(serve());
  client.send(TestClient::text("GET", "/hold") + TestClient::text("POST", "/echo", "second") +
              TestClient::text("POST", "/echo", "third"));
  auto held = held_.take();
  ASSERT_TRUE(held);
  held->responder.send({200, {}, "first"});
  EXPECT_EQ(client.read_response().body, "first");
  EXPECT_EQ(client.read_response().body, "POST /echo second");
  EXPECT_EQ(client.read_response().body, "POST /echo third");
}

TEST_F(HttpServerTest, ReadsRequestsCutAnywhere) {
  const std::uint16_t port = serve();
  const std::string whole = TestClient::text("POST", "/echo", "hello") +
                            "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                            "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\n" +
                            "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
                            "0\r\n\r\n" +
                            TestClient::text("GET", "/echo");
  const auto expect = [](TestClient& client) {
    EXPECT_EQ(client.read_response().body, "POST /echo hello");
    EXPECT_EQ(client.read_response().body, "POST /echo abcde");
    EXPECT_EQ(client.read_response().body, "POST /echo ");
    EXPECT_EQ(client.read_response().body, "GET /echo ");
  };
  {
    TestClient client(port);
    for (char c : whole) ASSERT_TRUE(client.send({&c, 1}));
    expect(client);
  }
  const std::uint64_t seed = 20240611;
  SCOPED_TRACE(seed);
  Prng prng(seed);
  for (int round = 0; round < 20; ++round) {
    TestClient client(port);
    std::string_view rest = whole;
    while (!rest.empty()) {
      const std::size_t part = std::min<std::size_t>(1 + prng.below(40), rest.size());
      ASSERT_TRUE(client.send(rest.substr(0, part)));
      rest.remove_prefix(part);
    }
    expect(client);
  }
}

TEST_F(HttpServerTest, SendsNoBodyForHead) {
  TestClient client(serve());
  const TestResponse head = client.request("HEAD", "/echo");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-length"), "11");
  EXPECT_EQ(client.request("GET", "/echo").body, "GET /echo ");
}

TEST_F(HttpServerTest, AsksForTheBodyWhenExpected) {
  TestClient client(serve());
  client.send(
      "POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  EXPECT_EQ(client.read_head().status, 100);
  client.send("late");
  EXPECT_EQ(client.read_response().body, "POST /echo late");
}

TEST_F(HttpServerTest, SpeaksHttp10) {
  const std::uint16_t port = serve();
  TestClient client(port);
  client.send("GET /echo HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.read_response().headers.at("connection"), "close");
  EXPECT_EQ(client.read_to_end(), "");

  TestClient streaming(port);
  streaming.send("GET /hold HTTP/1.0\r\n\r\n");
  auto held = held_.take();
  ASSERT_TRUE(held);
  held->responder.start({});
  held->responder.push("raw ");
  held->responder.push("bytes");
  held->responder.finish();
  const TestResponse response = streaming.read_response();
  EXPECT_EQ(response.headers.count("transfer-encoding"), 0u);
  EXPECT_EQ(response.body, "raw bytes");
}

TEST_F(HttpServerTest, RefusesMalformedAndAmbiguousRequests) {
  const std::uint16_t port = serve();
  const struct {
    std::string bytes;
    int status;
  } kCases[] = {
      {"nonsense\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n", 400},
      {"GET /echo HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400},
      {"GET /ec ho HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"GET /echo HTTP/3.0\r\nHost: a\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
       "0\r\n\r\n",
       400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"
       "0\r\n\r\n",
       400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400},
      {"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
       400},
      {"POST /echo HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\nContent-Length: 1\r\n\r\na", 417},
  };
  for (const auto& c : kCases) {
    SCOPED_TRACE(c.bytes);
    TestClient client(port);
    client.send(c.bytes);
    const TestResponse response = client.read_response();
    EXPECT_EQ(response.status, c.status);
    EXPECT_EQ(response.headers.at("connection"), "close");
    client.shutdown_write();
    EXPECT_EQ(client.read_to_end(), "");  // nothing behind it is taken for a request
  }
}

TEST_F(HttpServerTest, BoundsHeaderAndBody) {
  HttpOptions options;
  options.header_bytes = 1024;
  options.body_bytes = 64;
  const std::uint16_t port = serve(options);
  const std::string much(100'000, 'x');
  {
    TestClient client(port);
    client.send("GET /echo HTTP/1.1\r\nHost: a\r\nX: " + much);
    EXPECT_EQ(client.read_response().status, 431);
  }
  {
    TestClient client(port);  // refused by its length, before any of it is sent
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 65\r\n\r\n");
    EXPECT_EQ(client.read_response().status, 413);
  }
  {
    TestClient client(port);
    client.send(TestClient::text("POST", "/echo", much));
    EXPECT_EQ(client.read_response().status, 413);
  }
  {
    TestClient client(port);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" +
                std::string(64, 'x') + "\r\n1\r\nx\r\n0\r\n\r\n");
    EXPECT_EQ(client.read_response().status, 413);
  }
  {
    TestClient client(port);  // a chunk extension without end
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + much);
    const int status = client.read_response().status;
    EXPECT_TRUE(status == 431 || status == 400) << status;
  }
  TestClient client(port);
  EXPECT_EQ(client.request("POST", "/echo", std::string(64, 'y')).status, 200);
}

TEST_F(HttpServerTest, BoundsBodiesOfAllConnectionsTogether) {
  HttpOptions options;
  options.bodies_bytes = 100;
  const std::uint16_t port = serve(options);
  TestClient client(port);
  EXPECT_EQ(client.request("POST", "/echo", std::string(101, 'x')).status, 503);
  TestClient next(port);  // what a refused body held is free again
  EXPECT_EQ(next.request("POST", "/echo", std::string(99, 'x')).status, 200);
}

TEST_F(HttpServerTest, EndsSlowHeadersAndBodies) {
  HttpOptions options;
  options.tick = milliseconds(5);
  options.header_deadline = options.body_deadline = milliseconds(30);
  options.idle = milliseconds(30);
  const std::uint16_t port = serve(options);
  {
    TestClient client(port);
    client.send("GET /echo HT");
    EXPECT_EQ(client.read_response().status, 408);
  }
  {
    TestClient client(port);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    EXPECT_EQ(client.read_response().status, 408);
  }
  TestClient silent(port);
  EXPECT_EQ(silent.read_to_end(), "");
}

TEST_F(HttpServerTest, RefusesConnectionsBeyondTheLimit) {
  HttpOptions options;
  options.connections = 1;
  const std::uint16_t port = serve(options);
  TestClient first(port);
  EXPECT_EQ(first.request("GET", "/echo").status, 200);
  TestClient second(port);
  EXPECT_EQ(second.read_response().status, 503);
  EXPECT_EQ(first.request("GET", "/echo").status, 200);
}

TEST_F(HttpServerTest, SendsEachPushAtOnceAsOneChunk) {
  TestClient client(serve());
  client.send(TestClient::text("GET", "/hold") + TestClient::text("GET", "/echo"));
  auto held = held_.take();
  ASSERT_TRUE(held);
  EXPECT_TRUE(held->responder.start({200, {{"Content-Type", "text/plain"}}, "", "", {}}));
  EXPECT_FALSE(held->responder.start({}));
  EXPECT_FALSE(held->responder.send({}));
  EXPECT_EQ(client.read_head().headers.at("transfer-encoding"), "chunked");
  for (const std::string part : {"one", "two"}) {
    EXPECT_TRUE(held->responder.push(part));
    EXPECT_EQ(client.read_chunk(), part);
  }
  held->responder.finish();
  EXPECT_FALSE(held->responder.push("late"));
  EXPECT_EQ(client.read_chunk(), "");
  EXPECT_EQ(client.read_response().body, "GET /echo ");
}

TEST_F(HttpServerTest, TellsAtOnceThatTheClientHasGone) {
  const std::uint16_t port = serve();
  for (bool streaming : {false, true}) {
    TestClient client(port);
    client.send(TestClient::text("GET", "/hold"));
    auto held = held_.take();
    ASSERT_TRUE(held);
    Mailbox<CloseReason> closed;
    held->responder.on_close([&](CloseReason reason) { closed.put(reason); });
    if (streaming) {
      held->responder.start({});
      held->responder.push("x");
      client.read_head();
    }
    client.close();
    EXPECT_EQ(closed.take(), CloseReason::kClientGone);
    EXPECT_TRUE(held->responder.closed());
    EXPECT_FALSE(held->responder.push("y"));
    EXPECT_EQ(held->responder.unsent_bytes(), 0u);
  }
}

TEST_F(HttpServerTest, AnswersAHalfClosedClient) {
  TestClient client(serve());
  client.send(TestClient::text("GET", "/echo") + TestClient::text("POST", "/echo", "x"));
  client.shutdown_write();
  EXPECT_EQ(client.read_response().body, "GET /echo ");
}

TEST_F(HttpServerTest, BoundsWhatASlowReaderLeavesUnread) {
  HttpOptions options;
  options.stream_buffer_bytes = 64 << 10;
  options.send_buffer_bytes = 4 << 10;
  TestClient client(serve(options), 4 << 10);
  client.send(TestClient::text("GET", "/hold"));
  auto held = held_.take();
  ASSERT_TRUE(held);
  Mailbox<CloseReason> closed;
  held->responder.on_close([&](CloseReason reason) { closed.put(reason); });
  StreamOptions stream;
  stream.slow_tail = "too slow";
  held->responder.start(stream);
  const std::string part(1000, 'z');
  std::size_t pushed = 0;
  while (held->responder.push(part)) {
    ASSERT_LE(held->responder.unsent_bytes(), options.stream_buffer_bytes + 200);
    ASSERT_LT(++pushed, 100'000u);
  }
  EXPECT_EQ(closed.take(), CloseReason::kSlowClient);
  EXPECT_TRUE(held->responder.closed());
  // What was accepted still arrives, then the reason, then the end.
  const std::string body = client.read_response().body;
  EXPECT_EQ(body.size(), pushed * part.size() + stream.slow_tail.size());
  EXPECT_EQ(body.substr(pushed * part.size()), "too slow");
  EXPECT_EQ(client.read_to_end(), "");
}

TEST_F(HttpServerTest, TellsWhenAReaderFallsBehindAndWhenItIsBack) {
  HttpOptions options;
  options.send_buffer_bytes = 4 << 10;
  options.stream_buffer_bytes = 8 << 20;
  TestClient client(serve(options), 4 << 10);
  client.send(TestClient::text("GET", "/hold"));
  auto held = held_.take();
  ASSERT_TRUE(held);
  Mailbox<std::pair<bool, std::size_t>> pressure;
  held->responder.on_pressure(16 << 10, 8 << 10, [&](bool behind) {
    pressure.put({behind, held->responder.unsent_bytes()});
  });
  held->responder.start({});
  const std::string part(4000, 'z');
  std::size_t pushed = 0;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < 500; ++i, ++pushed) ASSERT_TRUE(held->responder.push(part));
    const auto behind = pressure.take();
    ASSERT_TRUE(behind);
    EXPECT_TRUE(behind->first);
    if (round == 0) client.read_head();
    for (int i = 0; i < 500; ++i) ASSERT_EQ(client.read_chunk(), part);
    const auto back = pressure.take();
    ASSERT_TRUE(back);
    EXPECT_FALSE(back->first);
    EXPECT_LE(back->second, 8u << 10);
  }
  held->responder.finish();
  EXPECT_EQ(client.read_chunk(), "");
  EXPECT_EQ(server_->counts().backpressure, 2u);
  EXPECT_EQ(server_->counts().slow_clients, 0u);
}

TEST_F(HttpServerTest, EndsAStreamWhoseReaderStaysBehind) {
  HttpOptions options;
  options.send_buffer_bytes = 4 << 10;
  options.stream_buffer_bytes = 8 << 20;
  options.slow_client = milliseconds(20);
  options.tick = milliseconds(5);
  TestClient client(serve(options), 4 << 10);
  client.send(TestClient::text("GET", "/hold"));
  auto held = held_.take();
  ASSERT_TRUE(held);
  Mailbox<CloseReason> closed;
  held->responder.on_close([&](CloseReason reason) { closed.put(reason); });
  held->responder.on_pressure(16 << 10, 8 << 10, [](bool) {});
  StreamOptions stream;
  stream.slow_tail = "too slow";
  held->responder.start(stream);
  const std::string part(4000, 'z');
  for (int i = 0; i < 500; ++i) held->responder.push(part);
  EXPECT_EQ(closed.take(), CloseReason::kSlowClient);
  EXPECT_FALSE(held->responder.push("more"));
  const std::string body = client.read_response().body;
  EXPECT_EQ(body.substr(body.size() - 8), "too slow");
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(server_->counts().slow_clients, 1u);
}

TEST_F(HttpServerTest, CutsAClientThatTakesNothing) {
  HttpOptions options;
  options.tick = milliseconds(5);
  options.write_stall = milliseconds(50);
  options.send_buffer_bytes = 4 << 10;
  TestClient client(serve(options), 4 << 10);
  client.send(TestClient::text("GET", "/hold"));
  auto held = held_.take();
  ASSERT_TRUE(held);
  Mailbox<CloseReason> closed;
  held->responder.on_close([&](CloseReason reason) { closed.put(reason); });
  held->responder.start({});
  held->responder.push(std::string(900'000, 'x'));
  EXPECT_EQ(closed.take(), CloseReason::kSlowClient);
}

TEST_F(HttpServerTest, KeepsSilentStreamsAlive) {
  HttpOptions options;
  options.tick = milliseconds(5);
  TestClient client(serve(options));
  client.send(TestClient::text("GET", "/hold"));
  auto held = held_.take();
  ASSERT_TRUE(held);
  Mailbox<int> waited;
  held->responder.when_unanswered(milliseconds(10), [&] { waited.put(1); });
  EXPECT_EQ(waited.take(), 1);
  StreamOptions stream;
  stream.idle_bytes = ": ping\n\n";
  stream.idle_interval = milliseconds(10);
  held->responder.start(stream);
  client.read_head();
  EXPECT_EQ(client.read_chunk(), ": ping\n\n");
  EXPECT_EQ(client.read_chunk(), ": ping\n\n");
}

TEST_F(HttpServerTest, AnswersWhatTheHandlerForgets) {
  const std::uint16_t port = serve();
  TestClient client(port);
  EXPECT_EQ(client.request("GET", "/drop").status, 500);
  EXPECT_EQ(client.request("GET", "/throw").status, 500);
  client.send(TestClient::text("GET", "/hold"));
  {
    auto held = held_.take();
    ASSERT_TRUE(held);
    held->responder.start({});
    held->responder.push("half");
  }
  EXPECT_EQ(client.read_response().body, "half");
  EXPECT_EQ(client.read_to_end(), "");
}

TEST_F(HttpServerTest, StopsWithRequestsInFlight) {
  TestClient client(serve());
  client.send(TestClient::text("GET", "/hold"));
  auto held = held_.take();
  ASSERT_TRUE(held);
  Mailbox<CloseReason> closed;
  held->responder.on_close([&](CloseReason reason) { closed.put(reason); });
  server_.reset();
  EXPECT_EQ(closed.take(), CloseReason::kServerStopped);
  EXPECT_FALSE(held->responder.send({}));
  held->responder.defer([] { FAIL() << "ran after stop"; });
  EXPECT_EQ(client.read_to_end(), "");
}

TEST(HttpServer, TakesTheNextFreePort) {
  const HttpHandler handler = [](HttpRequest, HttpResponder responder) { responder.send({}); };
  HttpServer first({}, handler), second({}, handler), third({}, handler);
  const auto port = first.listen("127.0.0.1", 0);
  ASSERT_TRUE(port.ok());
  const auto taken = second.listen("127.0.0.1", *port);
  ASSERT_FALSE(taken.ok());
  EXPECT_EQ(taken.error().code, Code::kUnavailable);
  EXPECT_NE(taken.error().message.find(std::to_string(*port)), std::string::npos);
  const auto next = third.listen("localhost", *port, 50);
  if (*port < 65535) {
    ASSERT_TRUE(next.ok()) << next.error().message;
    EXPECT_GT(*next, *port);
  }
  HttpServer elsewhere({}, handler);
  EXPECT_EQ(elsewhere.listen("192.0.2.1", 0).error().code, Code::kInvalidArgument);
}

TEST(HttpText, SplitsTargets) {
  EXPECT_EQ(split_target("/a%2Fb?x=%20").path, "/a/b");
  EXPECT_EQ(split_target("/a?x=%20").query, "x=%20");
  EXPECT_EQ(split_target("http://h:1/a?b").path, "/a");
  EXPECT_EQ(split_target("http://h").path, "/");
  EXPECT_EQ(split_target("/%zz").path, "/%zz");
  EXPECT_EQ(split_target("/%4").path, "/%4");
}

TEST(HttpText, KnowsLoopbackNames) {
  for (const char* name : {"localhost", "LocalHost:80", "127.0.0.1", "127.0.0.1:8642", "127.1.2.3",
                           "[::1]", "[::1]:8642", "::1"})
    EXPECT_TRUE(is_loopback_host(name)) << name;
  for (const char* name : {"", "example.org", "127.0.0.1.example.org", "127.evil", "0.0.0.0",
                           "localhost.example.org", "192.168.1.2:8642", "[::2]", "127.0.0.1@x"})
    EXPECT_FALSE(is_loopback_host(name)) << name;
}

TEST(HttpText, HeaderValuesCannotAddHeaders) {
  const HttpHeaders headers = {{"X", "a\r\nEvil: 1"}};
  ResponseHead head;
  head.headers = &headers;
  EXPECT_EQ(response_head(head).find("\r\nEvil"), std::string::npos);
}

TEST(Utf8Gate, DoesNotDependOnTheCuts) {
  const std::string text = "a\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80 \xFF\xC3( \xED\xA0\x80 \xF0\x9F";
  Utf8Gate whole;
  std::string expected = whole.push(text);
  expected += whole.flush();
  EXPECT_EQ(expected,
            "a\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80 \xEF\xBF\xBD\xEF\xBF\xBD( "
            "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD \xEF\xBF\xBD");
  for (std::size_t size = 1; size < text.size(); ++size) {
    Utf8Gate gate;
    std::string out;
    for (std::size_t at = 0; at < text.size(); at += size) out += gate.push(text.substr(at, size));
    out += gate.flush();
    EXPECT_EQ(out, expected) << size;
  }
}

TEST(JsonText, EscapesStrings) {
  std::string out;
  append_json_string(out, "a\"\\\n\x01\x7F\xC3\xA4\xFF/");
  EXPECT_EQ(out, "\"a\\\"\\\\\\n\\u0001\\u007f\xC3\xA4\xEF\xBF\xBD/\"");
}

TEST(JsonText, CutsMembersOut) {
  const std::string text = R"( { "a" : [1, {"b":"}]"}] , "\u0063":"x\"," ,"d":1.50 , "a2":{ } } )";
  const auto members = json_members(text);
  EXPECT_EQ(members.at("a"), R"([1, {"b":"}]"}])");
  EXPECT_EQ(members.at("c"), R"("x\",")");
  EXPECT_EQ(members.at("d"), "1.50");
  EXPECT_EQ(members.at("a2"), "{ }");
  EXPECT_EQ(members.size(), 4u);
}

TEST(JsonText, MeasuresDepth) {
  EXPECT_FALSE(json_deeper_than("[[{}]]", 3));
  EXPECT_TRUE(json_deeper_than("[[{}]]", 2));
  EXPECT_FALSE(json_deeper_than(R"(["[[[[", "\"[["])", 1));
  EXPECT_FALSE(json_deeper_than("[],[],[]", 1));
  EXPECT_TRUE(json_deeper_than(std::string(1'000'000, '['), 64));
}

}  // namespace
}  // namespace mesh::api
