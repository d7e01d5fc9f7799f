#pragma once
// Reads the requests of one connection out of bytes that come in any pieces, and refuses what two
// servers could read differently.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "api/http_server.h"

namespace mesh::api {

class HttpRequestParser {
 public:
  HttpRequestParser(std::size_t header_bytes, std::size_t body_bytes);
  ~HttpRequestParser();
  HttpRequestParser(const HttpRequestParser&) = delete;
  HttpRequestParser& operator=(const HttpRequestParser&) = delete;

  void append(std::string_view bytes);
  // Bytes that no request has taken yet.
  std::size_t buffered() const;
  void drop_buffered();

  enum class Progress {
    kNothing,   // no byte of a request
    kHeader,    // its header is not complete
    kBody,      // its body is not complete
    kComplete,  // take() it
    kRefused,   // see refusal(); the connection has to end
  };
  // Goes on as far as the bytes allow.
  Progress advance();

  struct Refusal {
    int status = 400;
    std::string why;
  };
  const Refusal& refusal() const;
  // Of the request in progress: bytes of its body so far; facts which hold from kBody on.
  std::size_t body_held() const;
  bool expects_continue() const;  // nothing of the body has come, and the client waits to be asked
  bool is_head() const;
  bool is_http10() const;
  bool keep_alive() const;

  // The complete request; the parser is ready for the next.
  HttpRequest take();
  // Forgets the request in progress.
  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mesh::api
