#pragma once
// HTTP/1.1 server with an interface of its own, so that the library behind it stays in one file.
// One thread ("http") owns all connections: requests are handed to the handler there, answers may
// come from any thread.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "api/http_counts.h"
#include "api/http_text.h"
#include "base/limits.h"
#include "base/result.h"
#include "base/time.h"

namespace mesh::api {

struct HttpRequest {
  std::string method;                          // as sent, "POST"
  std::string target;                          // as sent, "/v1/models?x=1"
  std::string path;                            // percent-decoded
  std::string query;                           // raw, without '?'
  std::map<std::string, std::string> headers;  // lower-case names; repeated ones joined with ", "
  std::string body;
  std::string remote;  // address of the client, without port
  bool keep_alive = false;

  // "" where the header is absent.
  std::string_view header(std::string_view lower_name) const;
};

struct HttpResponse {
  int status = 200;
  HttpHeaders headers;
  std::string body;  // 204 and 304: must be empty
};

struct StreamOptions {
  int status = 200;
  HttpHeaders headers;
  std::string slow_tail;   // last bytes for a client that is too slow
  std::string idle_bytes;  // sent whenever the stream was silent for idle_interval; "" for never
  Duration idle_interval = limits::kHttpStreamPing;
  std::size_t buffer_bytes = 0;  // more unsent ones cut the stream; 0: stream_buffer_bytes
};

enum class CloseReason {
  kClientGone,     // end of file or error on the connection
  kSlowClient,     // too many unsent bytes or for too long, or none accepted for write_stall
  kServerStopped,  // stop()
};

class ResponderState;

// The answer to one request. A copyable, thread-safe handle: every call returns at once, the
// first of send() and start() wins. When the last copy goes before an answer was given, the client
// gets a 500 (or, in the middle of a stream, a cut connection).
class HttpResponder {
 public:
  HttpResponder() = default;
  explicit HttpResponder(std::shared_ptr<ResponderState> state) : state_(std::move(state)) {}

  // A whole answer. false: answered already, or the client has gone.
  bool send(HttpResponse response) const;
  // Begins an answer of unknown length. false as above.
  bool start(StreamOptions options) const;
  // Appends to a started stream; written at once, as one HTTP chunk. false: the stream has ended —
  // the client has gone or was too slow (then slow_tail follows what it has not yet read).
  bool push(std::string bytes) const;
  void finish() const;
  // Bytes of this answer which the operating system has not yet taken.
  std::size_t unsent_bytes() const;
  bool closed() const;
  // Calls back on the HTTP thread with true when more than `high` bytes are unsent and with false
  // when no more than `low` are left, in turns. A stream that stays between for slow_client ends
  // with its slow_tail. Before start().
  void on_pressure(std::size_t high, std::size_t low, std::function<void(bool)> callback) const;
  // Called once on the HTTP thread if the client goes before finish(); at the next turn if it has
  // gone already. Dropped uncalled when the answer is complete.
  void on_close(std::function<void(CloseReason)> callback) const;
  // Runs the callback on the HTTP thread if neither send() nor start() came within `wait`.
  void when_unanswered(Duration wait, std::function<void()> callback) const;
  // Runs the task on the HTTP thread; dropped when the server has stopped.
  void defer(std::function<void()> task) const;

 private:
  std::shared_ptr<ResponderState> state_;
};

struct HttpOptions {
  std::size_t header_bytes = limits::kHttpHeaderBytes;
  std::size_t body_bytes = limits::kHttpBodyBytes;
  std::size_t bodies_bytes = limits::kHttpBodiesBytes;
  std::size_t connections = limits::kHttpConnections;
  std::size_t stream_buffer_bytes = limits::kStreamBufferBytes;
  std::size_t stream_high_bytes = limits::kStreamHighBytes;  // for those who call on_pressure()
  std::size_t stream_low_bytes = limits::kStreamLowBytes;
  Duration idle = limits::kHttpIdle;
  Duration header_deadline = limits::kHttpHeaderDeadline;
  Duration body_deadline = limits::kHttpBodyDeadline;
  Duration write_stall = limits::kHttpWriteStall;
  Duration slow_client = limits::kSlowClient;
  Duration tick = milliseconds(250);  // resolution of the times above
  int send_buffer_bytes = 0;          // SO_SNDBUF of connections; 0: the system's choice
  int unsent_low_bytes = limits::kHttpUnsentLowBytes;  // TCP_NOTSENT_LOWAT, where there is one
  // Makes the answers which the server gives by itself: 400 malformed, 408, 413, 417, 431, 500,
  // 503.
  std::function<HttpResponse(int status, std::string_view why)> error_response;
};

// Runs on the HTTP thread and must not block.
using HttpHandler = std::function<void(HttpRequest request, HttpResponder responder)>;

class HttpCore;

class HttpServer {
 public:
  HttpServer(HttpOptions options, HttpHandler handler);
  ~HttpServer();  // stop()
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds host (an address or a name) at `port`, or the next free of `tries` ports from there, and
  // starts serving; returns the port. Port 0: any free one. Call once.
  // Errors: invalid_argument for a host that is no address of this machine, unavailable when all
  // ports are taken (the message names them), permission_denied.
  Result<std::uint16_t> listen(const std::string& host, std::uint16_t port, int tries = 1);
  // Closes all connections and joins the thread; responders stay valid and do nothing. Not to be
  // called on the HTTP thread.
  void stop();
  // Any thread.
  HttpCounts counts() const;

 private:
  std::shared_ptr<HttpCore> core_;
};

}  // namespace mesh::api
