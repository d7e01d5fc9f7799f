#include "api/http_exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <utility>

namespace mesh::api {
namespace {

constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace

HttpHost::HttpHost(HttpOptions given) : options(std::move(given)) {
  if (!options.error_response)
    options.error_response = [](int status, std::string_view why) {
      return HttpResponse{
          status, {{"Content-Type", "text/plain; charset=utf-8"}}, std::string(why) + "\n"};
    };
}

std::string_view HttpRequest::header(std::string_view lower_name) const {
  const auto found = headers.find(std::string(lower_name));
  return found == headers.end() ? std::string_view() : std::string_view(found->second);
}

// --- HttpExchange --------------------------------------------------------------------------------

void HttpExchange::wake() {
  if (wake_posted) return;
  wake_posted = true;
  host->post([weak = writer] {
    if (const auto alive = weak.lock()) alive->wake();
  });
}

void HttpExchange::put(std::string bytes) {
  unsent += bytes.size();
  ready.push_back(std::move(bytes));
  note_pressure();
}

void HttpExchange::note_pressure() {
  if (!on_pressure) return;
  if (!pressed && unsent > high && stage == Stage::kStreaming) {
    pressed = true;
    pressed_at = SteadyClock::now();
    host->tally.backpressure.fetch_add(1);
  } else if (pressed && unsent <= low) {
    pressed = false;
  }
}

std::string HttpExchange::framed(std::string bytes) const {
  if (http10) return bytes;
  std::string out = fmt::format("{:x}\r\n", bytes.size());
  out += bytes;
  out += "\r\n";
  return out;
}

bool HttpExchange::respond(HttpResponse response) {
  const std::lock_guard lock(mutex);
  if (stage != Stage::kPending || closed) return false;
  stage = Stage::kFinished;
  host->tally.answered(response.status);
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

bool HttpExchange::start(StreamOptions options) {
  const std::lock_guard lock(mutex);
  if (stage != Stage::kPending || closed) return false;
  stage = Stage::kStreaming;
  host->tally.answered(options.status);
  if (http10) keep_alive = false;
  ResponseHead head;
  head.status = options.status;
  head.headers = &options.headers;
  head.body = http10 ? BodyKind::kUntilClose : BodyKind::kChunked;
  head.keep_alive = keep_alive;
  head.unix_seconds = std::time(nullptr);
  put(response_head(head));
  stream = std::move(options);
  if (stream.buffer_bytes == 0) stream.buffer_bytes = host->options.stream_buffer_bytes;
  wake();
  return true;
}

bool HttpExchange::push(std::string bytes) {
  const std::lock_guard lock(mutex);
  if (stage != Stage::kStreaming || closed) return false;
  if (bytes.empty() || head_only) return true;
  std::string chunk = framed(std::move(bytes));
  if (unsent + chunk.size() > stream.buffer_bytes) {
    end_slow();
    return false;
  }
  put(std::move(chunk));
  wake();
  return true;
}

void HttpExchange::end_slow() {
  slow = true;
  keep_alive = false;
  stage = Stage::kFinished;
  host->tally.slow_clients.fetch_add(1);
  if (!stream.slow_tail.empty()) put(framed(std::move(stream.slow_tail)));
  if (!http10) put(std::string(kLastChunk));
  wake();
}

void HttpExchange::finish(bool whole) {
  const std::lock_guard lock(mutex);
  if (stage != Stage::kStreaming || closed) return;
  stage = Stage::kFinished;
  if (!whole) keep_alive = false;
  if (whole && !http10 && !head_only) put(std::string(kLastChunk));
  wake();
}

bool HttpExchange::answered() {
  const std::lock_guard lock(mutex);
  return stage == Stage::kFinished;
}

bool HttpExchange::has_unsent() {
  const std::lock_guard lock(mutex);
  return unsent > 0;
}

void HttpExchange::sent(std::size_t bytes) {
  const std::lock_guard lock(mutex);
  unsent -= std::min(bytes, unsent);
  note_pressure();
}

void HttpExchange::tell_pressure() {
  std::function<void(bool)> callback;
  bool now = false;
  {
    const std::lock_guard lock(mutex);
    if (pressed == pressure_told || stage != Stage::kStreaming) return;
    pressure_told = now = pressed;
    callback = on_pressure;
  }
  if (callback) callback(now);
}

void HttpExchange::end_if_behind_since(SteadyClock::time_point then) {
  const std::lock_guard lock(mutex);
  if (stage == Stage::kStreaming && !closed && pressed && pressed_at <= then) end_slow();
}

void HttpExchange::abandon(CloseReason reason) {
  std::function<void(CloseReason)> callback;
  std::function<void()> dropped_wait;
  std::function<void(bool)> dropped_pressure;
  std::vector<std::string> dropped;
  bool tell = false;
  {
    const std::lock_guard lock(mutex);
    closed = true;
    unsent = 0;
    dropped.swap(ready);
    tell = stage != Stage::kFinished || slow;
    callback = std::exchange(on_close, nullptr);
    dropped_wait = std::exchange(on_wait, nullptr);
    dropped_pressure = std::exchange(on_pressure, nullptr);
  }
  if (tell && callback) callback(reason);
}

// --- HttpResponder -------------------------------------------------------------------------------

ResponderState::~ResponderState() {
  bool unanswered = false;
  {
    const std::lock_guard lock(exchange->mutex);
    unanswered = exchange->stage == HttpExchange::Stage::kPending && !exchange->closed;
  }
  if (unanswered)
    exchange->respond(
        exchange->host->options.error_response(500, "the request was dropped without an answer"));
  exchange->finish(false);
}

bool HttpResponder::send(HttpResponse response) const {
  return state_ && state_->exchange->respond(std::move(response));
}

bool HttpResponder::start(StreamOptions options) const {
  return state_ && state_->exchange->start(std::move(options));
}

bool HttpResponder::push(std::string bytes) const {
  return state_ && state_->exchange->push(std::move(bytes));
}

void HttpResponder::finish() const {
  if (state_) state_->exchange->finish(true);
}

std::size_t HttpResponder::unsent_bytes() const {
  if (!state_) return 0;
  const std::lock_guard lock(state_->exchange->mutex);
  return state_->exchange->unsent;
}

bool HttpResponder::closed() const {
  if (!state_) return true;
  const std::lock_guard lock(state_->exchange->mutex);
  return state_->exchange->closed || state_->exchange->slow;
}

void HttpResponder::on_close(std::function<void(CloseReason)> callback) const {
  if (!state_) return;
  HttpExchange& exchange = *state_->exchange;
  const std::lock_guard lock(exchange.mutex);
  if (exchange.closed) {
    exchange.host->post([fn = std::move(callback)] { fn(CloseReason::kClientGone); });
    return;
  }
  exchange.on_close = std::move(callback);
}

void HttpResponder::on_pressure(std::size_t high, std::size_t low,
                                std::function<void(bool)> callback) const {
  if (!state_) return;
  HttpExchange& exchange = *state_->exchange;
  const std::lock_guard lock(exchange.mutex);
  if (exchange.closed) return;
  exchange.high = high;
  exchange.low = std::min(low, high);
  exchange.on_pressure = std::move(callback);
}

void HttpResponder::when_unanswered(Duration wait, std::function<void()> callback) const {
  if (!state_) return;
  HttpExchange& exchange = *state_->exchange;
  const std::lock_guard lock(exchange.mutex);
  exchange.on_wait = std::move(callback);
  exchange.wait_until = HttpExchange::SteadyClock::now() +
                        std::chrono::duration_cast<HttpExchange::SteadyClock::duration>(wait);
}

void HttpResponder::defer(std::function<void()> task) const {
  if (state_) state_->exchange->host->post(std::move(task));
}

}  // namespace mesh::api
