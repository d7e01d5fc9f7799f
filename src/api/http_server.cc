// The only file that knows Boost.Beast and Boost.Asio on the API side. Beast parses requests fed to
// it by a single read loop; responses are written as bytes, which needs less code than Beast's
// serializers and lets a stream be measured while it is unsent.
#include "api/http_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <ctime>
#include <deque>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#ifdef __linux__
#include <pthread.h>
#endif

namespace mesh::api {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using SteadyClock = std::chrono::steady_clock;
using boost::system::error_code;

namespace {
constexpr std::size_t kReadBytes = 16u << 10;
constexpr std::size_t kWriteBuffers = 64;  // gathered into one system call
constexpr int kFlushTries = 50;            // looks at what is unsent when the server stops
constexpr std::chrono::milliseconds kFlushPause(5);
constexpr std::string_view kLastChunk = "0\r\n\r\n";
}  // namespace

class Session;

// State that outlives the server object: responders may be used by other threads after it.
class HttpCore : public std::enable_shared_from_this<HttpCore> {
 public:
  HttpCore(HttpOptions o, HttpHandler h) : options(std::move(o)), handler(std::move(h)) {
    if (!options.error_response)
      options.error_response = [](int status, std::string_view why) {
        return HttpResponse{
            status, {{"Content-Type", "text/plain; charset=utf-8"}}, std::string(why) + "\n"};
      };
  }

  Result<std::uint16_t> listen(const std::string& host, std::uint16_t port, int tries);
  void stop();
  // Any thread. Dropped once stopped, so that no task can keep this object alive for ever.
  void post(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    if (!stopped_) asio::post(io_, std::move(task));
  }

  HttpOptions options;
  HttpHandler handler;
  // HTTP thread only:
  std::set<std::shared_ptr<Session>> sessions;
  std::size_t body_bytes = 0;  // of requests being received

 private:
  error_code bind(const tcp::endpoint& endpoint);
  void accept();
  void admit(tcp::socket socket);
  void tick();
  void close_sessions(int tries);

  asio::io_context io_{1};
  tcp::acceptor acceptor_{io_};
  asio::steady_timer ticker_{io_};
  bool accept_paused_ = false;
  bool stopping_ = false;  // HTTP thread only
  std::mutex mutex_;       // orders post() against stop()
  bool stopped_ = false;
  std::thread thread_;
};

// One request's answer, between the threads that make it and the session that writes it.
class ResponderState {
 public:
  // Shared by handles and session; a handle's last copy abandons what is unanswered.
  struct Shared {
    enum class Stage { kPending, kStreaming, kFinished };
    // Constant:
    std::shared_ptr<HttpCore> core;
    std::weak_ptr<Session> session;
    bool head_only = false, http10 = false;

    std::mutex mutex;  // guards all below: filled by any thread, drained by the HTTP thread
    Stage stage = Stage::kPending;
    bool keep_alive = false, closed = false, slow = false, wake_posted = false;
    std::vector<std::string> ready;
    std::size_t unsent = 0;
    StreamOptions stream;
    std::function<void(CloseReason)> on_close;
    std::function<void()> on_wait;
    SteadyClock::time_point wait_until{};

    void wake();  // with the lock held
    void put(std::string bytes) {
      unsent += bytes.size();
      ready.push_back(std::move(bytes));
    }
    std::string framed(std::string bytes) const {
      if (http10) return bytes;
      std::string out = fmt::format("{:x}\r\n", bytes.size());
      out += bytes;
      out += "\r\n";
      return out;
    }
    bool respond(HttpResponse response);
    bool push(std::string bytes);
    void finish(bool whole);
  };

  explicit ResponderState(std::shared_ptr<Shared> s) : shared(std::move(s)) {}
  ~ResponderState();
  const std::shared_ptr<Shared> shared;
};

using Exchange = ResponderState::Shared;

// One connection. All members belong to the HTTP thread.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(std::shared_ptr<HttpCore> core, tcp::socket socket)
      : core_(std::move(core)), socket_(std::move(socket)) {
    error_code ignored;
    const auto remote = socket_.remote_endpoint(ignored);
    if (!ignored) remote_ = remote.address().to_string();
    socket_.set_option(tcp::no_delay(true), ignored);
    if (core_->options.send_buffer_bytes > 0)
      socket_.set_option(asio::socket_base::send_buffer_size(core_->options.send_buffer_bytes),
                         ignored);
  }

  void start() {
    enter(Phase::kIdle, core_->options.idle);
    read();
  }
  void start_rejected() {
    fail(503, "the server has as many connections as it serves");
    read();
  }
  void tick(SteadyClock::time_point now);
  void wake();
  void close(CloseReason reason);
  bool unsent() const {
    if (!out_.empty()) return true;
    if (!exchange_) return false;
    const std::lock_guard lock(exchange_->mutex);
    return exchange_->unsent > 0;
  }

 private:
  enum class Phase { kIdle, kHeader, kBody, kBusy, kLinger };

  void enter(Phase phase, Duration allowed) {
    phase_ = phase;
    deadline_ = SteadyClock::now() + std::chrono::duration_cast<SteadyClock::duration>(allowed);
  }
  void read();
  void on_read(error_code ec, std::size_t count);
  void parse();
  bool parse_header();
  bool parse_body();
  void account_body(std::size_t bytes);
  bool header_acceptable();
  void dispatch();
  HttpResponder begin_exchange(bool keep_alive);
  void fail(int status, std::string_view why);
  void fail_parse(const error_code& ec);
  void pump();
  void on_write(error_code ec, std::size_t count);
  void complete();
  void linger();

  struct Out {
    std::string bytes;
    std::shared_ptr<Exchange> exchange;  // null for "100 Continue"
  };

  std::shared_ptr<HttpCore> core_;
  tcp::socket socket_;
  std::string remote_;
  // Read apart from buffer_: that is parsed, and moves, while a read is under way.
  std::array<char, kReadBytes> incoming_;
  boost::beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  HttpRequest request_;  // header part, complete once the parser has passed the header
  std::size_t body_held_ = 0;
  std::shared_ptr<Exchange> exchange_;  // the answer in progress
  bool finished_ = false;               // nothing more will come for exchange_
  std::deque<Out> out_;
  std::size_t out_offset_ = 0;  // written of out_.front()
  bool reading_ = false, writing_ = false, dead_ = false, eof_ = false;
  Phase phase_ = Phase::kIdle;
  SteadyClock::time_point deadline_{}, progress_{};
};

// --- HttpRequest, HttpResponder, Exchange --------------------------------------------------------

std::string_view HttpRequest::header(std::string_view lower_name) const {
  const auto found = headers.find(std::string(lower_name));
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

void Exchange::wake() {
  if (wake_posted) return;
  wake_posted = true;
  core->post([weak = session] {
    if (const auto alive = weak.lock()) alive->wake();
  });
}

bool Exchange::respond(HttpResponse response) {
  const std::lock_guard lock(mutex);
  if (stage != Stage::kPending || closed) return false;
  stage = Stage::kFinished;
  ResponseHead head;
  head.status = response.status;
  head.headers = &response.headers;
  head.body =
      response.status == 204 || response.status == 304 ? BodyKind::kNone : BodyKind::kLength;
  head.length = response.body.size();
  head.keep_alive = keep_alive;
  head.http10 = http10;
  head.unix_seconds = std::time(nullptr);
  std::string bytes = response_head(head);
  if (!head_only && head.body == BodyKind::kLength) bytes += response.body;
  put(std::move(bytes));
  wake();
  return true;
}

bool Exchange::push(std::string bytes) {
  const std::lock_guard lock(mutex);
  if (stage != Stage::kStreaming || closed) return false;
  if (bytes.empty() || head_only) return true;
  std::string chunk = framed(std::move(bytes));
  if (unsent + chunk.size() > core->options.stream_buffer_bytes) {
    slow = true;
    keep_alive = false;
    stage = Stage::kFinished;
    if (!stream.slow_tail.empty()) put(framed(std::move(stream.slow_tail)));
    if (!http10) put(std::string(kLastChunk));
    wake();
    return false;
  }
  put(std::move(chunk));
  wake();
  return true;
}

void Exchange::finish(bool whole) {
  const std::lock_guard lock(mutex);
  if (stage != Stage::kStreaming || closed) return;
  stage = Stage::kFinished;
  if (!whole) keep_alive = false;
  if (whole && !http10 && !head_only) put(std::string(kLastChunk));
  wake();
}

ResponderState::~ResponderState() {
  bool unanswered = false;
  {
    const std::lock_guard lock(shared->mutex);
    unanswered = shared->stage == Shared::Stage::kPending && !shared->closed;
  }
  if (unanswered)
    shared->respond(
        shared->core->options.error_response(500, "the request was dropped without an answer"));
  shared->finish(false);
}

bool HttpResponder::send(HttpResponse response) const {
  return state_ && state_->shared->respond(std::move(response));
}

bool HttpResponder::start(StreamOptions options) const {
  if (!state_) return false;
  Exchange& exchange = *state_->shared;
  const std::lock_guard lock(exchange.mutex);
  if (exchange.stage != Exchange::Stage::kPending || exchange.closed) return false;
  exchange.stage = Exchange::Stage::kStreaming;
  if (exchange.http10) exchange.keep_alive = false;
  ResponseHead head;
  head.status = options.status;
  head.headers = &options.headers;
  head.body = exchange.http10 ? BodyKind::kUntilClose : BodyKind::kChunked;
  head.keep_alive = exchange.keep_alive;
  head.unix_seconds = std::time(nullptr);
  exchange.put(response_head(head));
  exchange.stream = std::move(options);
  exchange.wake();
  return true;
}

bool HttpResponder::push(std::string bytes) const {
  return state_ && state_->shared->push(std::move(bytes));
}

void HttpResponder::finish() const {
  if (state_) state_->shared->finish(true);
}

std::size_t HttpResponder::unsent_bytes() const {
  if (!state_) return 0;
  const std::lock_guard lock(state_->shared->mutex);
  return state_->shared->unsent;
}

bool HttpResponder::closed() const {
  if (!state_) return true;
  const std::lock_guard lock(state_->shared->mutex);
  return state_->shared->closed || state_->shared->slow;
}

void HttpResponder::on_close(std::function<void(CloseReason)> callback) const {
  if (!state_) return;
  Exchange& exchange = *state_->shared;
  const std::lock_guard lock(exchange.mutex);
  if (exchange.closed) {
    exchange.core->post([fn = std::move(callback)] { fn(CloseReason::kClientGone); });
    return;
  }
  exchange.on_close = std::move(callback);
}

void HttpResponder::when_unanswered(Duration wait, std::function<void()> callback) const {
  if (!state_) return;
  const std::lock_guard lock(state_->shared->mutex);
  state_->shared->on_wait = std::move(callback);
  state_->shared->wait_until =
      SteadyClock::now() + std::chrono::duration_cast<SteadyClock::duration>(wait);
}

void HttpResponder::defer(std::function<void()> task) const {
  if (state_) state_->shared->core->post(std::move(task));
}

// --- Session: reading ----------------------------------------------------------------------------

void Session::read() {
  if (reading_ || dead_ || eof_) return;
  // Pipelined requests wait in the buffer; a client that sends ever more of them is left unread.
  if (phase_ == Phase::kBusy && buffer_.size() >= limits::kHttpPipelineBytes) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(incoming_),
                          [self = shared_from_this()](error_code ec, std::size_t count) {
                            self->reading_ = false;
                            self->on_read(ec, count);
                          });
}

void Session::on_read(error_code ec, std::size_t count) {
  if (dead_) return;
  if (ec) {
    // A half-closed client still gets an answer which is complete; work that is under way for it
    // is given up, since a vanished client looks the same.
    if (ec != asio::error::eof || !exchange_) return close(CloseReason::kClientGone);
    bool answered = false;
    {
      const std::lock_guard lock(exchange_->mutex);
      answered = exchange_->stage == Exchange::Stage::kFinished;
    }
    if (!answered) return close(CloseReason::kClientGone);
    eof_ = true;
    return;
  }
  if (phase_ != Phase::kLinger) {
    buffer_.commit(asio::buffer_copy(buffer_.prepare(count), asio::buffer(incoming_, count)));
    if (phase_ != Phase::kBusy) parse();
  }
  read();
}

void Session::parse() {
  if (!parser_) {
    // RFC 9112 section 2.2: empty lines before a request are ignored.
    while (buffer_.size() > 0) {
      const char first = *static_cast<const char*>(buffer_.data().data());
      if (first != '\r' && first != '\n') break;
      buffer_.consume(1);
    }
    if (buffer_.size() == 0) {
      if (phase_ != Phase::kIdle) enter(Phase::kIdle, core_->options.idle);
      return;
    }
    parser_.emplace();
    parser_->header_limit(static_cast<std::uint32_t>(core_->options.header_bytes));
    parser_->body_limit(core_->options.body_bytes);
    enter(Phase::kHeader, core_->options.header_deadline);
  }
  if (!parser_->is_header_done() && !parse_header()) return;
  if (!parser_->is_done() && !parse_body()) return;
  dispatch();
}

// false: more bytes are needed, or the request has been refused.
bool Session::parse_header() {
  error_code ec;
  parser_->eager(false);
  while (!parser_->is_header_done()) {
    if (buffer_.size() == 0) return false;
    const std::size_t used = parser_->put(buffer_.data(), ec);
    buffer_.consume(used);
    if (ec == http::error::need_more) {
      ec = {};
      if (used == 0) return false;
      continue;
    }
    if (ec) {
      fail_parse(ec);
      return false;
    }
  }
  if (!header_acceptable()) return false;
  enter(Phase::kBody, core_->options.body_deadline);
  if (!parser_->is_done() && buffer_.size() == 0 &&
      equals_ignore_case(request_.header("expect"), "100-continue")) {
    out_.push_back({"HTTP/1.1 100 Continue\r\n\r\n", nullptr});
    pump();
  }
  return true;
}

// Takes the header out of the parser (trailers of a chunked body never reach it) and refuses what
// Beast lets through but which two servers could read differently.
bool Session::header_acceptable() {
  const auto& message = parser_->get();
  request_ = HttpRequest{};
  request_.method = std::string(message.method_string());
  request_.target = std::string(message.target());
  Target target = split_target(request_.target);
  request_.path = std::move(target.path);
  request_.query = std::move(target.query);
  request_.remote = remote_;
  request_.keep_alive = parser_->keep_alive();
  std::size_t hosts = 0;
  for (const auto& field : message) {
    const std::string name = to_lower({field.name_string().data(), field.name_string().size()});
    const std::string value(field.value().data(), field.value().size());
    if (name == "host") ++hosts;
    auto [at, fresh] = request_.headers.emplace(name, value);
    if (!fresh) at->second += ", " + value;
  }
  const unsigned version = message.version();
  if (version != 10 && version != 11) {
    fail(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    return false;
  }
  const std::string_view encoding = request_.header("transfer-encoding");
  if (request_.headers.count("transfer-encoding") != 0 &&
      (version == 10 || !equals_ignore_case(trim(encoding), "chunked"))) {
    fail(400, "Transfer-Encoding must be \"chunked\", with HTTP/1.1");
    return false;
  }
  if (hosts > 1 || (version == 11 && hosts == 0)) {
    fail(400, hosts > 1 ? "more than one Host header" : "the Host header is missing");
    return false;
  }
  const std::string_view expect = request_.header("expect");
  if (!expect.empty() && !equals_ignore_case(expect, "100-continue")) {
    fail(417, "only Expect: 100-continue is understood");
    return false;
  }
  return true;
}

bool Session::parse_body() {
  error_code ec;
  parser_->eager(true);
  while (!parser_->is_done()) {
    // Every chunked body ends in at least the 5 bytes "0\r\n\r\n", taken at once. Beast 1.81
    // asserts that much when it resumes in a last chunk, so it is never given less.
    if (buffer_.size() < (parser_->chunked() ? 5u : 1u)) return false;
    const std::size_t used = parser_->put(buffer_.data(), ec);
    buffer_.consume(used);
    account_body(parser_->get().body().size());
    if (core_->body_bytes > core_->options.bodies_bytes) {
      fail(503, "too many request bodies are being received at once");
      return false;
    }
    if (ec == http::error::need_more) {
      ec = {};
      if (used != 0) continue;
      // Chunk extensions and trailers that do not end.
      if (buffer_.size() > core_->options.header_bytes) fail(431, "a chunk header is too long");
      return false;
    }
    if (ec) {
      fail_parse(ec);
      return false;
    }
  }
  return true;
}

void Session::account_body(std::size_t bytes) {
  core_->body_bytes = core_->body_bytes - body_held_ + bytes;
  body_held_ = bytes;
}

void Session::fail_parse(const error_code& ec) {
  if (ec == http::error::body_limit)
    return fail(413,
                fmt::format("the request body is larger than {} bytes", core_->options.body_bytes));
  if (ec == http::error::header_limit)
    return fail(431, fmt::format("the request header is larger than {} bytes",
                                 core_->options.header_bytes));
  fail(400, fmt::format("malformed HTTP request: {}", ec.message()));
}

HttpResponder Session::begin_exchange(bool keep_alive) {
  exchange_ = std::make_shared<Exchange>();
  exchange_->core = core_;
  exchange_->session = weak_from_this();
  exchange_->head_only = parser_ && parser_->is_header_done() && request_.method == "HEAD";
  exchange_->http10 = parser_ && parser_->is_header_done() && parser_->get().version() == 10;
  exchange_->keep_alive = keep_alive;
  finished_ = false;
  phase_ = Phase::kBusy;
  return HttpResponder(std::make_shared<ResponderState>(exchange_));
}

// Answers by the server itself; the connection ends, since what follows cannot be trusted.
void Session::fail(int status, std::string_view why) {
  const HttpResponder responder = begin_exchange(false);
  responder.send(core_->options.error_response(status, why));
  account_body(0);
  parser_.reset();
}

void Session::dispatch() {
  request_.body = std::move(parser_->get().body());
  const HttpResponder responder = begin_exchange(request_.keep_alive);
  parser_.reset();
  account_body(0);
  try {
    core_->handler(std::move(request_), responder);
  } catch (const std::exception& failure) {
    responder.send(core_->options.error_response(
        500, fmt::format("the request could not be handled: {}", failure.what())));
  }
  request_ = HttpRequest{};
}

// --- Session: writing ----------------------------------------------------------------------------

void Session::wake() {
  if (dead_ || !exchange_) return;
  bool slow = false;
  std::function<void(CloseReason)> slow_callback;
  {
    const std::lock_guard lock(exchange_->mutex);
    exchange_->wake_posted = false;
    for (std::string& bytes : exchange_->ready) out_.push_back({std::move(bytes), exchange_});
    exchange_->ready.clear();
    finished_ = exchange_->stage == Exchange::Stage::kFinished;
    slow = exchange_->slow;
    if (slow) slow_callback = std::exchange(exchange_->on_close, nullptr);
  }
  if (slow_callback) slow_callback(CloseReason::kSlowClient);
  pump();
  if (!writing_ && out_.empty() && finished_) complete();
}

void Session::pump() {
  if (writing_ || dead_ || out_.empty()) return;
  std::vector<asio::const_buffer> buffers;
  for (const Out& out : out_) {
    buffers.emplace_back(asio::buffer(out.bytes));
    if (buffers.size() == kWriteBuffers) break;
  }
  buffers.front() += out_offset_;
  writing_ = true;
  progress_ = SteadyClock::now();
  socket_.async_write_some(buffers, [self = shared_from_this()](error_code ec, std::size_t count) {
    self->writing_ = false;
    self->on_write(ec, count);
  });
}

void Session::on_write(error_code ec, std::size_t count) {
  if (dead_) return;
  if (ec) return close(CloseReason::kClientGone);
  progress_ = SteadyClock::now();
  while (count > 0 && !out_.empty()) {
    Out& front = out_.front();
    const std::size_t part = std::min(count, front.bytes.size() - out_offset_);
    count -= part;
    out_offset_ += part;
    if (front.exchange) {
      const std::lock_guard lock(front.exchange->mutex);
      front.exchange->unsent -= std::min(part, front.exchange->unsent);
    }
    if (out_offset_ < front.bytes.size()) break;
    out_.pop_front();
    out_offset_ = 0;
  }
  if (!out_.empty()) return pump();
  if (exchange_ && finished_) complete();
}

void Session::complete() {
  bool keep_alive = false;
  std::function<void(CloseReason)> dropped;  // destroyed outside the lock
  std::function<void()> dropped_wait;
  {
    const std::lock_guard lock(exchange_->mutex);
    if (!exchange_->ready.empty()) return;  // a wake is on its way
    keep_alive = exchange_->keep_alive;
    dropped = std::exchange(exchange_->on_close, nullptr);
    dropped_wait = std::exchange(exchange_->on_wait, nullptr);
  }
  exchange_.reset();
  finished_ = false;
  if (!keep_alive) return linger();
  enter(Phase::kIdle, core_->options.idle);
  parse();
  if (eof_) {
    // The read side has ended: only a pipelined request that is answered already is still served.
    bool answered = false;
    if (exchange_) {
      const std::lock_guard lock(exchange_->mutex);
      answered = exchange_->stage == Exchange::Stage::kFinished;
    }
    if (!answered) close(CloseReason::kClientGone);
    return;
  }
  read();
}

// Closing with unread bytes makes the system reset the connection, which may destroy the answer
// before the client has read it; so the client's bytes are read for a while.
void Session::linger() {
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  if (eof_ || ignored) return close(CloseReason::kClientGone);
  enter(Phase::kLinger, limits::kHttpLinger);
  buffer_.consume(buffer_.size());
  read();
}

void Session::close(CloseReason reason) {
  if (dead_) return;
  dead_ = true;
  const auto self = shared_from_this();
  account_body(0);
  error_code ignored;
  socket_.close(ignored);
  core_->sessions.erase(self);
  out_.clear();
  if (!exchange_) return;
  std::function<void(CloseReason)> callback;
  std::function<void()> dropped_wait;
  std::vector<std::string> dropped;
  bool tell = false;
  {
    const std::lock_guard lock(exchange_->mutex);
    exchange_->closed = true;
    exchange_->unsent = 0;
    dropped.swap(exchange_->ready);
    tell = exchange_->stage != Exchange::Stage::kFinished || exchange_->slow;
    callback = std::exchange(exchange_->on_close, nullptr);
    dropped_wait = std::exchange(exchange_->on_wait, nullptr);
  }
  exchange_.reset();
  if (tell && callback) callback(reason);
}

void Session::tick(SteadyClock::time_point now) {
  if (dead_) return;
  const auto stall = std::chrono::duration_cast<SteadyClock::duration>(core_->options.write_stall);
  if (writing_ && now - progress_ > stall) return close(CloseReason::kSlowClient);
  if (phase_ != Phase::kBusy) {
    if (now < deadline_) return;
    if (phase_ == Phase::kHeader || phase_ == Phase::kBody)
      return fail(408, phase_ == Phase::kHeader ? "the request header took too long"
                                                : "the request body took too long");
    return close(CloseReason::kClientGone);
  }
  if (!exchange_) return;
  std::function<void()> waited;
  std::string idle;
  {
    const std::lock_guard lock(exchange_->mutex);
    if (exchange_->stage == Exchange::Stage::kPending && exchange_->on_wait &&
        now >= exchange_->wait_until)
      waited = std::exchange(exchange_->on_wait, nullptr);
    const auto interval =
        std::chrono::duration_cast<SteadyClock::duration>(exchange_->stream.idle_interval);
    if (exchange_->stage == Exchange::Stage::kStreaming && exchange_->unsent == 0 &&
        now - progress_ >= interval)
      idle = exchange_->stream.idle_bytes;
  }
  if (waited) waited();
  if (!idle.empty() && exchange_) exchange_->push(std::move(idle));
}

// --- HttpCore ------------------------------------------------------------------------------------

error_code HttpCore::bind(const tcp::endpoint& endpoint) {
  error_code ec;
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) acceptor_.set_option(asio::socket_base::reuse_address(true), ec);
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) acceptor_.listen(asio::socket_base::max_listen_connections, ec);
  error_code ignored;
  if (ec) acceptor_.close(ignored);
  return ec;
}

Result<std::uint16_t> HttpCore::listen(const std::string& host, std::uint16_t port, int tries) {
  MESH_CHECK(!thread_.joinable(), "listen() is called once");
  error_code ec;
  std::string name = host;
  if (name.size() > 2 && name.front() == '[' && name.back() == ']')
    name = name.substr(1, name.size() - 2);
  asio::ip::address address = asio::ip::make_address(name == "localhost" ? "127.0.0.1" : name, ec);
  if (ec) {
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(name, "", ec);
    if (ec || found.empty())
      return Error(Code::kInvalidArgument,
                   fmt::format("\"{}\" is no address of this machine: {}", host, ec.message()));
    address = found.begin()->endpoint().address();
  }
  const int last = port == 0 ? 0 : std::min(port + std::max(tries, 1) - 1, 65535);
  for (int candidate = port; candidate <= last; ++candidate) {
    ec = bind({address, static_cast<std::uint16_t>(candidate)});
    if (ec == asio::error::address_in_use) continue;
    break;
  }
  if (ec == asio::error::address_in_use)
    return Error(Code::kUnavailable,
                 last == port ? fmt::format("port {} of {} is in use", port, host)
                              : fmt::format("ports {} to {} of {} are in use", port, last, host));
  if (ec)
    return Error(
        ec == asio::error::access_denied ? Code::kPermissionDenied : Code::kInvalidArgument,
        fmt::format("cannot listen on {} port {}: {}", host, port, ec.message()));
  const tcp::endpoint local = acceptor_.local_endpoint(ec);
  if (ec) return Error(Code::kInternal, ec.message());
  accept();
  tick();
  thread_ = std::thread([self = this] {
#ifdef __linux__
    pthread_setname_np(pthread_self(), "http");
#endif
    self->io_.run();
  });
  return local.port();
}

void HttpCore::accept() {
  acceptor_.async_accept([this](error_code ec, tcp::socket socket) {
    if (stopping_ || ec == asio::error::operation_aborted) return;
    if (ec == asio::error::connection_aborted) return accept();
    // Out of descriptors or memory: the next tick tries again instead of spinning.
    if (ec) {
      accept_paused_ = true;
      return;
    }
    admit(std::move(socket));
    accept();
  });
}

void HttpCore::admit(tcp::socket socket) {
  if (sessions.size() >= options.connections + limits::kHttpRejecting) return;
  const bool full = sessions.size() >= options.connections;
  const auto session = std::make_shared<Session>(shared_from_this(), std::move(socket));
  sessions.insert(session);
  if (full)
    session->start_rejected();
  else
    session->start();
}

void HttpCore::tick() {
  ticker_.expires_after(std::chrono::duration_cast<SteadyClock::duration>(options.tick));
  ticker_.async_wait([this](error_code ec) {
    if (ec || stopping_) return;
    const std::vector<std::shared_ptr<Session>> snapshot(sessions.begin(), sessions.end());
    const auto now = SteadyClock::now();
    for (const auto& session : snapshot) session->tick(now);
    if (std::exchange(accept_paused_, false)) accept();
    tick();
  });
}

// Answers that were ended just before the stop are written first, as far as clients take them.
void HttpCore::close_sessions(int tries) {
  // Those that wake() a session from now on are not heard any more.
  const std::vector<std::shared_ptr<Session>> snapshot(sessions.begin(), sessions.end());
  for (const auto& session : snapshot) session->wake();
  const bool unsent = std::any_of(sessions.begin(), sessions.end(),
                                  [](const auto& session) { return session->unsent(); });
  if (!sessions.empty() && tries > 0 && (unsent || tries == kFlushTries)) {
    ticker_.expires_after(kFlushPause);
    ticker_.async_wait([this, tries](error_code) { close_sessions(tries - 1); });
    return;
  }
  for (const auto& session : snapshot) session->close(CloseReason::kServerStopped);
}

void HttpCore::stop() {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    stopped_ = true;
    asio::post(io_, [this] {
      stopping_ = true;
      error_code ignored;
      acceptor_.close(ignored);
      ticker_.cancel();
      close_sessions(kFlushTries);
    });
  }
  if (thread_.joinable())
    thread_.join();
  else
    io_.poll();
}

// --- HttpServer ----------------------------------------------------------------------------------

HttpServer::HttpServer(HttpOptions options, HttpHandler handler)
    : core_(std::make_shared<HttpCore>(std::move(options), std::move(handler))) {}

HttpServer::~HttpServer() {
  stop();
}

Result<std::uint16_t> HttpServer::listen(const std::string& host, std::uint16_t port, int tries) {
  return core_->listen(host, port, tries);
}

void HttpServer::stop() {
  core_->stop();
}

}  // namespace mesh::api
