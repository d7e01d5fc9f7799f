#include "api/chat_sink.h"

#include <utility>

namespace mesh::api {
namespace {

ApiError slow_client_error() {
  ApiError error;
  error.type = "server_error";
  error.code = "slow_client";
  error.message = "The stream was ended: the client reads too slowly and its buffer is full.";
  return error;
}

}  // namespace

HttpResponse error_response(const ApiError& error, HttpHeaders headers) {
  headers.emplace_back("Content-Type", "application/json; charset=utf-8");
  headers.emplace_back("Cache-Control", "no-store");
  if (error.retry_after_s > 0)
    headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  return {error.status, std::move(headers), error_json(error)};
}

ChatSink::ChatSink(HttpResponder responder, Options options)
    : responder_(std::move(responder)),
      options_(std::move(options)),
      frame_(text_chunk_frame(options_.identity)) {}

void ChatSink::arm() {
  if (!options_.stream) return;
  responder_.when_unanswered(options_.patience, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      const std::lock_guard lock(self->mutex_);
      if (!self->ended_) self->begin_stream();
    }
  });
}

void ChatSink::begin_stream() {
  if (streaming_) return;
  streaming_ = true;
  StreamOptions stream;
  stream.headers = options_.headers;
  stream.headers.emplace_back("Content-Type", "text/event-stream; charset=utf-8");
  stream.headers.emplace_back("Cache-Control", "no-cache");
  stream.headers.emplace_back("X-Accel-Buffering", "no");
  stream.idle_bytes = ": ping\n\n";
  stream.idle_interval = options_.patience;
  stream.slow_tail = error_event(slow_client_error()) + std::string(kDoneEvent);
  responder_.start(std::move(stream));
  responder_.push(role_event(options_.identity));
}

void ChatSink::on_start(const node::Usage&) {
  const std::lock_guard lock(mutex_);
  if (options_.stream && !ended_) begin_stream();
}

void ChatSink::push_text(std::string_view text) {
  if (text.empty()) return;
  std::string event;
  event.reserve(frame_.before.size() + text.size() + frame_.after.size() + 16);
  event += frame_.before;
  append_json_string(event, text);
  event += frame_.after;
  responder_.push(std::move(event));
}

void ChatSink::on_piece(std::uint32_t, node::Piece piece) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  const std::string whole = gate_.push(piece.text);
  if (!options_.stream) {
    text_ += whole;
    return;
  }
  begin_stream();
  push_text(whole);
}

void ChatSink::on_choice_end(std::uint32_t, node::FinishReason reason, std::string) {
  const std::lock_guard lock(mutex_);
  reason_ = reason;
}

void ChatSink::on_end(const node::Usage& usage, const node::Timings& timings) {
  const std::lock_guard lock(mutex_);
  const node::FinishReason reason = reason_;
  if (std::exchange(ended_, true)) return;
  const std::string rest = gate_.flush();
  if (!options_.stream) {
    // A long answer is turned into JSON where it does not hold up the control loop.
    responder_.defer([self = shared_from_this(), rest, reason, usage, timings] {
      HttpHeaders headers = self->options_.headers;
      headers.emplace_back("Content-Type", "application/json; charset=utf-8");
      headers.emplace_back("Cache-Control", "no-store");
      self->responder_.send(
          {200, std::move(headers),
           completion_json(self->options_.identity, self->text_ + rest, reason, usage, timings)});
    });
    return;
  }
  begin_stream();
  push_text(rest);
  responder_.push(finish_event(options_.identity, reason, usage, timings));
  if (options_.identity.include_usage) responder_.push(usage_event(options_.identity, usage));
  responder_.push(std::string(kDoneEvent));
  responder_.finish();
}

void ChatSink::on_error(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(ended_, true)) return;
  // Elsewhere, because the translation asks the mesh for its status, and the mesh is calling us.
  responder_.defer([self = shared_from_this(), error] { self->fail(error); });
}

void ChatSink::fail(const Error& error) {
  const std::lock_guard lock(mutex_);
  const ApiError translated = options_.translate(error);
  if (!streaming_) {
    responder_.send(error_response(translated, options_.headers));
    return;
  }
  responder_.push(error_event(translated));
  responder_.push(std::string(kDoneEvent));
  responder_.finish();
}

}  // namespace mesh::api
