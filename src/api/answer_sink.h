#pragma once
// Turns one generation into one HTTP answer, streamed or whole, of one or several choices.

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "api/answer_json.h"
#include "api/api_error.h"
#include "api/http_server.h"
#include "api/json_text.h"
#include "node/gateway.h"

namespace mesh::api {

// Calls of the mesh arrive on the control loop and return at once: text is escaped and queued on
// the responder, everything else runs on the HTTP thread. A mutex is needed because the stream may
// also be begun by the HTTP thread, when the mesh takes long to admit the request.
class AnswerSink : public node::GenerateSink, public std::enable_shared_from_this<AnswerSink> {
 public:
  struct Options {
    AnswerIdentity identity;
    bool stream = false, include_usage = false;
    bool continuous_usage = false;          // pieces must then carry their tokens
    std::uint32_t choices = 1;              // prompts times n
    std::optional<std::uint32_t> logprobs;  // shown, with so many alternatives
    std::vector<std::string> stop;          // the request's
    std::size_t buffer_bytes = 0;           // of the stream; 0: the server's
    std::size_t high_bytes = limits::kStreamHighBytes, low_bytes = limits::kStreamLowBytes;
    HttpHeaders headers;                              // of every answer
    std::function<ApiError(const Error&)> translate;  // runs on the HTTP thread
    // Whether the client of the stream keeps up; runs on the HTTP thread.
    std::function<void(bool)> set_reading;
    Duration patience = limits::kHttpStreamPing;  // then a stream begins without tokens
  };

  AnswerSink(HttpResponder responder, Options options);

  // Registers what needs a shared pointer to this, and starts the clock. Before generate().
  void arm();

  void on_start(const node::Usage& prompt) override;
  void on_piece(std::uint32_t choice, node::Piece piece) override;
  void on_choice_end(std::uint32_t choice, node::FinishReason reason, std::string stop) override;
  void on_end(const node::Usage& usage, const node::Timings& timings) override;
  void on_error(const Error& error) override;

 private:
  struct Choice {
    ChoiceText answer;  // its text is kept only when not streamed
    Utf8Gate gate;
    std::optional<ScoreText> scores;
    bool ended = false, told = false;
  };

  // All with the lock held:
  void begin_stream(bool admitted);
  std::string chunk_usage() const;  // JSON, "" for none
  void push_text(std::uint32_t index, std::string_view text);
  void push_finish(std::uint32_t index, const std::optional<AnswerTimings>& timings);
  void end_stream(const AnswerTimings& timings);

  void send_whole(const AnswerTimings& timings);
  void fail(const Error& error);

  const HttpResponder responder_;
  const Options options_;
  const AnswerWriter writer_;
  std::mutex mutex_;
  bool streaming_ = false, ended_ = false;
  std::vector<Choice> choices_;
  std::uint32_t open_;   // choices that have not ended
  node::Usage running_;  // for continuous_usage
  Instant armed_{};
};

// An error as an HTTP answer: JSON body, Retry-After where it has one, and the given headers.
HttpResponse error_response(const ApiError& error, HttpHeaders headers);

}  // namespace mesh::api
