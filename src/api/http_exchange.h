#pragma once
// One request's answer, between the threads that make it and the connection that writes it. Inner
// side of HttpResponder; knows no sockets.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api/http_counts.h"
#include "api/http_server.h"

namespace mesh::api {

// What answers need of the server. Outlives it: responders may be used by other threads after it.
class HttpHost {
 public:
  explicit HttpHost(HttpOptions given);
  virtual ~HttpHost() = default;
  HttpHost(const HttpHost&) = delete;
  HttpHost& operator=(const HttpHost&) = delete;

  // Runs the task on the HTTP thread; dropped once stopped. Any thread.
  virtual void post(std::function<void()> task) = 0;

  HttpOptions options;
  HttpTally tally;
};

// The connection that writes an answer. HTTP thread only.
class HttpWriter {
 public:
  virtual ~HttpWriter() = default;
  // There is something new in the exchange.
  virtual void wake() = 0;
};

// Shared by handles and connection.
struct HttpExchange {
  using SteadyClock = std::chrono::steady_clock;
  enum class Stage { kPending, kStreaming, kFinished };

  // Constant:
  std::shared_ptr<HttpHost> host;
  std::weak_ptr<HttpWriter> writer;
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
  // The reader is behind from more than `high` unsent bytes until no more than `low`.
  std::function<void(bool)> on_pressure;
  std::size_t high = 0, low = 0;
  bool pressed = false, pressure_told = false;
  SteadyClock::time_point pressed_at{};

  bool respond(HttpResponse response);
  bool start(StreamOptions options);
  bool push(std::string bytes);
  void finish(bool whole);
  bool answered();  // completely
  bool has_unsent();

  // HTTP thread, lock not held:
  void sent(std::size_t bytes);
  void tell_pressure();
  // Ends a stream whose reader has been behind since before `then`.
  void end_if_behind_since(SteadyClock::time_point then);
  // The connection has gone; calls on_close unless the answer was complete.
  void abandon(CloseReason reason);

 private:
  // All with the lock held:
  void wake();
  void put(std::string bytes);
  void end_slow();
  std::string framed(std::string bytes) const;
  void note_pressure();
};

// A handle's last copy abandons what is unanswered.
class ResponderState {
 public:
  explicit ResponderState(std::shared_ptr<HttpExchange> e) : exchange(std::move(e)) {}
  ~ResponderState();
  const std::shared_ptr<HttpExchange> exchange;
};

}  // namespace mesh::api
