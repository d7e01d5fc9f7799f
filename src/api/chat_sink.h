#pragma once
// Turns one generation into one HTTP answer, streamed or whole.

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "api/http_server.h"
#include "api/json_text.h"
#include "api/openai_types.h"
#include "node/gateway.h"

namespace mesh::api {

// Calls of the mesh arrive on the control loop and return at once: text is escaped and queued on
// the responder, everything else runs on the HTTP thread. A mutex is needed because the stream may
// also be begun by the HTTP thread, when the mesh takes long to admit the request.
class ChatSink : public node::GenerateSink, public std::enable_shared_from_this<ChatSink> {
 public:
  struct Options {
    AnswerIdentity identity;
    std::string request_id;
    bool stream = false;
    HttpHeaders headers;                              // of every answer
    std::function<ApiError(const Error&)> translate;  // runs on the HTTP thread
    Duration patience = limits::kHttpStreamPing;      // then a stream begins without tokens
  };

  ChatSink(HttpResponder responder, Options options);

  // Registers what needs a shared pointer to this. Before generate().
  void arm();

  void on_start(const node::Usage& prompt) override;
  void on_piece(std::uint32_t choice, node::Piece piece) override;
  void on_choice_end(std::uint32_t choice, node::FinishReason reason, std::string stop) override;
  void on_end(const node::Usage& usage, const node::Timings& timings) override;
  void on_error(const Error& error) override;

 private:
  void begin_stream();  // with the lock held
  void push_text(std::string_view text);
  void fail(const Error& error);

  const HttpResponder responder_;
  const Options options_;
  const ChunkFrame frame_;
  std::mutex mutex_;
  bool streaming_ = false, ended_ = false;
  node::FinishReason reason_ = node::FinishReason::kStop;
  Utf8Gate gate_;
  std::string text_;  // when not streamed
};

// An error as an HTTP answer: JSON body, Retry-After where it has one, and the given headers.
HttpResponse error_response(const ApiError& error, HttpHeaders headers);

}  // namespace mesh::api
