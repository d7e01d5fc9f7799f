#include "api/answer_sink.h"

#include <fmt/format.h>

#include <chrono>
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

Instant steady_now() {
  return Instant{} +
         std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace

HttpResponse error_response(const ApiError& error, HttpHeaders headers) {
  headers.emplace_back("Content-Type", "application/json; charset=utf-8");
  headers.emplace_back("Cache-Control", "no-store");
  if (error.retry_after_s > 0)
    headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  return {error.status, std::move(headers), error_json(error)};
}

AnswerSink::AnswerSink(HttpResponder responder, Options options)
    : responder_(std::move(responder)),
      options_(std::move(options)),
      writer_(options_.identity),
      choices_(options_.choices),
      open_(options_.choices) {
  if (options_.logprobs)
    for (Choice& choice : choices_)
      choice.scores.emplace(options_.identity.kind, *options_.logprobs);
}

void AnswerSink::arm() {
  armed_ = steady_now();
  if (!options_.stream) return;
  if (options_.set_reading)
    responder_.on_pressure(options_.high_bytes, options_.low_bytes,
                           [tell = options_.set_reading](bool pressed) { tell(!pressed); });
  responder_.when_unanswered(options_.patience, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) {
      const std::lock_guard lock(self->mutex_);
      if (!self->ended_) self->begin_stream(false);
    }
  });
}

void AnswerSink::begin_stream(bool admitted) {
  if (std::exchange(streaming_, true)) return;
  StreamOptions stream;
  stream.headers = options_.headers;
  stream.headers.emplace_back("Content-Type", "text/event-stream; charset=utf-8");
  stream.headers.emplace_back("Cache-Control", "no-cache");
  stream.headers.emplace_back("X-Accel-Buffering", "no");
  if (admitted)
    stream.headers.emplace_back(
        "Server-Timing", fmt::format("queue;dur={:.3f}", to_milliseconds(steady_now() - armed_)));
  stream.idle_bytes = ": ping\n\n";
  stream.idle_interval = options_.patience;
  stream.slow_tail = error_event(slow_client_error()) + std::string(kDoneEvent);
  stream.buffer_bytes = options_.buffer_bytes;
  responder_.start(std::move(stream));
  if (options_.identity.kind != AnswerKind::kChat) return;
  for (std::uint32_t i = 0; i < options_.choices; ++i)
    responder_.push(writer_.role_event(i, chunk_usage()));
}

std::string AnswerSink::chunk_usage() const {
  if (options_.continuous_usage) return usage_json(running_);
  return options_.include_usage ? "null" : "";
}

void AnswerSink::on_start(const node::Usage& prompt) {
  const std::lock_guard lock(mutex_);
  running_ = prompt;
  if (options_.stream && !ended_) begin_stream(true);
}

void AnswerSink::push_text(std::uint32_t index, std::string_view text) {
  Choice& choice = choices_[index];
  const bool scored = choice.scores && !choice.scores->empty();
  if (text.empty() && !scored) return;
  responder_.push(
      writer_.text_event(index, text, scored ? choice.scores->take() : "null", chunk_usage()));
}

void AnswerSink::on_piece(std::uint32_t index, node::Piece piece) {
  const std::lock_guard lock(mutex_);
  if (ended_ || index >= choices_.size()) return;
  Choice& choice = choices_[index];
  if (choice.scores)
    for (const node::TokenText& token : piece.tokens) choice.scores->add(token);
  if (options_.continuous_usage)
    running_.completion_tokens += static_cast<std::uint32_t>(piece.tokens.size());
  const std::string whole = choice.gate.push(piece.text);
  if (!options_.stream) {
    choice.answer.text += whole;
    return;
  }
  begin_stream(false);
  push_text(index, whole);
}

// The last choice's end waits for on_end(), which follows at once, so that its chunk has timings.
void AnswerSink::on_choice_end(std::uint32_t index, node::FinishReason reason, std::string stop) {
  const std::lock_guard lock(mutex_);
  if (ended_ || index >= choices_.size()) return;
  Choice& choice = choices_[index];
  if (std::exchange(choice.ended, true)) return;
  choice.answer.reason = reason;
  choice.answer.stop_reason = stop_reason_json(stop, options_.stop);
  --open_;
  const std::string rest = choice.gate.flush();
  if (!options_.stream) {
    choice.answer.text += rest;
    return;
  }
  begin_stream(false);
  push_text(index, rest);
  if (open_ > 0) push_finish(index, std::nullopt);
}

void AnswerSink::push_finish(std::uint32_t index, const std::optional<AnswerTimings>& timings) {
  if (std::exchange(choices_[index].told, true)) return;
  responder_.push(writer_.finish_event(index, choices_[index].answer, chunk_usage(), timings));
}

void AnswerSink::on_end(const node::Usage& usage, const node::Timings& timings) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(ended_, true)) return;
  const AnswerTimings all{usage, timings};
  if (options_.stream) return end_stream(all);
  // A long answer is turned into JSON where it does not hold up the control loop.
  responder_.defer([self = shared_from_this(), all] { self->send_whole(all); });
}

void AnswerSink::end_stream(const AnswerTimings& timings) {
  begin_stream(false);
  running_ = timings.usage;
  for (std::uint32_t i = 0; i < options_.choices; ++i) push_finish(i, timings);
  if (options_.include_usage) responder_.push(writer_.usage_event(timings.usage));
  responder_.push(std::string(kDoneEvent));
  responder_.finish();
}

void AnswerSink::send_whole(const AnswerTimings& timings) {
  const std::lock_guard lock(mutex_);
  std::vector<ChoiceText> answers;
  for (Choice& choice : choices_) {
    if (choice.scores) choice.answer.logprobs = choice.scores->take();
    answers.push_back(std::move(choice.answer));
  }
  HttpHeaders headers = options_.headers;
  headers.emplace_back("Content-Type", "application/json; charset=utf-8");
  headers.emplace_back("Cache-Control", "no-store");
  headers.emplace_back("Server-Timing", server_timing(timings.timings));
  responder_.send({200, std::move(headers), writer_.whole(answers, timings)});
}

void AnswerSink::on_error(const Error& error) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(ended_, true)) return;
  // Elsewhere, because the translation asks the mesh for its status, and the mesh is calling us.
  responder_.defer([self = shared_from_this(), error] { self->fail(error); });
}

void AnswerSink::fail(const Error& error) {
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
