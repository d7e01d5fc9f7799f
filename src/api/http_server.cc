// The only file that knows Boost.Asio on the API side. A connection is one read loop whose bytes go
// to the parser; responses are written as bytes, which needs less code than a library's serializers
// and lets a stream be measured while it is unsent.
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
#include <chrono>
#include <deque>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "api/http_exchange.h"
#include "api/http_request_parser.h"

#ifdef __linux__
#include <pthread.h>
#endif
#include <netinet/tcp.h>
#include <sys/socket.h>

namespace mesh::api {

namespace asio = boost::asio;
using asio::ip::tcp;
using SteadyClock = std::chrono::steady_clock;
using boost::system::error_code;

namespace {
constexpr std::size_t kReadBytes = 16u << 10;
constexpr std::size_t kWriteBuffers = 64;  // gathered into one system call
constexpr int kFlushTries = 50;            // looks at what is unsent when the server stops
constexpr std::chrono::milliseconds kFlushPause(5);

SteadyClock::duration steady(Duration d) {
  return std::chrono::duration_cast<SteadyClock::duration>(d);
}

// The system takes no more than this ahead of what it has sent, so that what waits here tells how
// far the reader is behind. Without the option the system's send buffer hides that for longer.
void bound_unsent(tcp::socket& socket, int bytes) {
#ifdef TCP_NOTSENT_LOWAT
  if (bytes > 0)
    ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);
#else
  (void)socket, (void)bytes;
#endif
}
}  // namespace

class Session;

class HttpCore : public HttpHost, public std::enable_shared_from_this<HttpCore> {
 public:
  HttpCore(HttpOptions o, HttpHandler h) : HttpHost(std::move(o)), handler(std::move(h)) {}

  Result<std::uint16_t> listen(const std::string& host, std::uint16_t port, int tries);
  void stop();
  // Dropped once stopped, so that no task can keep this object alive for ever.
  void post(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    if (!stopped_) asio::post(io_, std::move(task));
  }
  void remove(const std::shared_ptr<Session>& session);

  HttpHandler handler;
  std::size_t body_bytes = 0;  // of requests being received; HTTP thread only

 private:
  error_code bind(const tcp::endpoint& endpoint);
  void accept();
  void admit(tcp::socket socket);
  void tick();
  void close_sessions(int tries);

  asio::io_context io_{1};
  tcp::acceptor acceptor_{io_};
  asio::steady_timer ticker_{io_};
  // HTTP thread only:
  std::set<std::shared_ptr<Session>> sessions_;
  bool accept_paused_ = false;
  bool stopping_ = false;
  std::mutex mutex_;  // orders post() against stop()
  bool stopped_ = false;
  std::thread thread_;
};

// One connection. All members belong to the HTTP thread.
class Session : public HttpWriter, public std::enable_shared_from_this<Session> {
 public:
  Session(std::shared_ptr<HttpCore> core, tcp::socket socket)
      : core_(std::move(core)),
        socket_(std::move(socket)),
        parser_(core_->options.header_bytes, core_->options.body_bytes) {
    error_code ignored;
    const auto remote = socket_.remote_endpoint(ignored);
    if (!ignored) remote_ = remote.address().to_string();
    socket_.set_option(tcp::no_delay(true), ignored);
    bound_unsent(socket_, core_->options.unsent_low_bytes);
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
  void wake() override;
  void close(CloseReason reason);
  bool unsent() const { return !out_.empty() || (exchange_ && exchange_->has_unsent()); }

 private:
  enum class Phase { kIdle, kHeader, kBody, kBusy, kLinger };

  void enter(Phase phase, Duration allowed) {
    phase_ = phase;
    deadline_ = SteadyClock::now() + steady(allowed);
  }
  void read();
  void on_read(error_code ec, std::size_t count);
  void parse();
  void account_body(std::size_t bytes);
  void dispatch();
  HttpResponder begin_exchange(bool keep_alive);
  void fail(int status, std::string_view why);
  void pump();
  void on_write(error_code ec, std::size_t count);
  void complete();
  void linger();

  struct Out {
    std::string bytes;
    std::shared_ptr<HttpExchange> exchange;  // null for "100 Continue"
  };

  std::shared_ptr<HttpCore> core_;
  tcp::socket socket_;
  std::string remote_;
  std::array<char, kReadBytes> incoming_;
  HttpRequestParser parser_;
  std::size_t body_held_ = 0;
  std::shared_ptr<HttpExchange> exchange_;  // the answer in progress
  bool finished_ = false;                   // nothing more will come for exchange_
  std::deque<Out> out_;
  std::size_t out_offset_ = 0;  // written of out_.front()
  bool reading_ = false, writing_ = false, dead_ = false, eof_ = false;
  Phase phase_ = Phase::kIdle;
  SteadyClock::time_point deadline_{}, progress_{};
};

// --- Session: reading ----------------------------------------------------------------------------

void Session::read() {
  if (reading_ || dead_ || eof_) return;
  // Pipelined requests wait in the buffer; a client that sends ever more of them is left unread.
  if (phase_ == Phase::kBusy && parser_.buffered() >= limits::kHttpPipelineBytes) return;
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
    if (ec != asio::error::eof || !exchange_ || !exchange_->answered())
      return close(CloseReason::kClientGone);
    eof_ = true;
    return;
  }
  if (phase_ != Phase::kLinger) {
    parser_.append({incoming_.data(), count});
    if (phase_ != Phase::kBusy) parse();
  }
  read();
}

void Session::parse() {
  using Progress = HttpRequestParser::Progress;
  const Progress progress = parser_.advance();
  if (progress == Progress::kNothing) {
    if (phase_ != Phase::kIdle) enter(Phase::kIdle, core_->options.idle);
    return;
  }
  if (phase_ == Phase::kIdle) enter(Phase::kHeader, core_->options.header_deadline);
  if (progress == Progress::kHeader) return;
  if (progress == Progress::kRefused) {
    const HttpRequestParser::Refusal refusal = parser_.refusal();
    return fail(refusal.status, refusal.why);
  }
  if (phase_ == Phase::kHeader) {
    enter(Phase::kBody, core_->options.body_deadline);
    if (parser_.expects_continue()) {
      out_.push_back({"HTTP/1.1 100 Continue\r\n\r\n", nullptr});
      pump();
    }
  }
  account_body(parser_.body_held());
  if (core_->body_bytes > core_->options.bodies_bytes)
    return fail(503, "too many request bodies are being received at once");
  if (progress == Progress::kComplete) dispatch();
}

void Session::account_body(std::size_t bytes) {
  core_->body_bytes = core_->body_bytes - body_held_ + bytes;
  body_held_ = bytes;
}

HttpResponder Session::begin_exchange(bool keep_alive) {
  exchange_ = std::make_shared<HttpExchange>();
  exchange_->host = core_;
  exchange_->writer = std::weak_ptr<HttpWriter>(shared_from_this());
  exchange_->head_only = parser_.is_head();
  exchange_->http10 = parser_.is_http10();
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
  const HttpResponder responder = begin_exchange(parser_.keep_alive());
  HttpRequest request = parser_.take();
  request.remote = remote_;
  account_body(0);
  try {
    core_->handler(std::move(request), responder);
  } catch (const std::exception& failure) {
    responder.send(core_->options.error_response(
        500, fmt::format("the request could not be handled: {}", failure.what())));
  }
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
    finished_ = exchange_->stage == HttpExchange::Stage::kFinished;
    slow = exchange_->slow;
    if (slow) slow_callback = std::exchange(exchange_->on_close, nullptr);
  }
  if (slow_callback) slow_callback(CloseReason::kSlowClient);
  pump();
  if (exchange_) exchange_->tell_pressure();
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
    if (front.exchange) front.exchange->sent(part);
    if (out_offset_ < front.bytes.size()) break;
    out_.pop_front();
    out_offset_ = 0;
  }
  if (exchange_) exchange_->tell_pressure();
  if (!out_.empty()) return pump();
  if (exchange_ && finished_) complete();
}

void Session::complete() {
  bool keep_alive = false;
  std::function<void(CloseReason)> dropped;  // destroyed outside the lock
  std::function<void()> dropped_wait;
  std::function<void(bool)> dropped_pressure;
  {
    const std::lock_guard lock(exchange_->mutex);
    if (!exchange_->ready.empty()) return;  // a wake is on its way
    keep_alive = exchange_->keep_alive;
    dropped = std::exchange(exchange_->on_close, nullptr);
    dropped_wait = std::exchange(exchange_->on_wait, nullptr);
    dropped_pressure = std::exchange(exchange_->on_pressure, nullptr);
  }
  exchange_.reset();
  finished_ = false;
  if (!keep_alive) return linger();
  enter(Phase::kIdle, core_->options.idle);
  parse();
  if (eof_) {
    // The read side has ended: only a pipelined request that is answered already is still served.
    if (!exchange_ || !exchange_->answered()) close(CloseReason::kClientGone);
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
  parser_.drop_buffered();
  read();
}

void Session::close(CloseReason reason) {
  if (dead_) return;
  dead_ = true;
  const auto self = shared_from_this();
  account_body(0);
  error_code ignored;
  socket_.close(ignored);
  core_->remove(self);
  out_.clear();
  if (const auto exchange = std::exchange(exchange_, nullptr)) exchange->abandon(reason);
}

void Session::tick(SteadyClock::time_point now) {
  if (dead_) return;
  if (writing_ && now - progress_ > steady(core_->options.write_stall))
    return close(CloseReason::kSlowClient);
  if (phase_ != Phase::kBusy) {
    if (now < deadline_) return;
    if (phase_ == Phase::kHeader || phase_ == Phase::kBody)
      return fail(408, phase_ == Phase::kHeader ? "the request header took too long"
                                                : "the request body took too long");
    return close(CloseReason::kClientGone);
  }
  if (!exchange_) return;
  exchange_->end_if_behind_since(now - steady(core_->options.slow_client));
  std::function<void()> waited;
  std::string idle;
  {
    const std::lock_guard lock(exchange_->mutex);
    if (exchange_->stage == HttpExchange::Stage::kPending && exchange_->on_wait &&
        now >= exchange_->wait_until)
      waited = std::exchange(exchange_->on_wait, nullptr);
    if (exchange_->stage == HttpExchange::Stage::kStreaming && exchange_->unsent == 0 &&
        now - progress_ >= steady(exchange_->stream.idle_interval))
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
  if (sessions_.size() >= options.connections + limits::kHttpRejecting) return;
  const bool full = sessions_.size() >= options.connections;
  const auto session = std::make_shared<Session>(shared_from_this(), std::move(socket));
  sessions_.insert(session);
  tally.connections.fetch_add(1);
  tally.connections_open.store(sessions_.size());
  if (full)
    session->start_rejected();
  else
    session->start();
}

void HttpCore::remove(const std::shared_ptr<Session>& session) {
  sessions_.erase(session);
  tally.connections_open.store(sessions_.size());
}

void HttpCore::tick() {
  ticker_.expires_after(steady(options.tick));
  ticker_.async_wait([this](error_code ec) {
    if (ec || stopping_) return;
    const std::vector<std::shared_ptr<Session>> snapshot(sessions_.begin(), sessions_.end());
    const auto now = SteadyClock::now();
    for (const auto& session : snapshot) session->tick(now);
    if (std::exchange(accept_paused_, false)) accept();
    tick();
  });
}

// Answers that were ended just before the stop are written first, as far as clients take them.
void HttpCore::close_sessions(int tries) {
  // Those that wake() a session from now on are not heard any more.
  const std::vector<std::shared_ptr<Session>> snapshot(sessions_.begin(), sessions_.end());
  for (const auto& session : snapshot) session->wake();
  const bool unsent = std::any_of(sessions_.begin(), sessions_.end(),
                                  [](const auto& session) { return session->unsent(); });
  if (!sessions_.empty() && tries > 0 && (unsent || tries == kFlushTries)) {
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

HttpCounts HttpServer::counts() const {
  return core_->tally.read();
}

}  // namespace mesh::api
