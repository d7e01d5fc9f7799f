// The only file that knows Boost.Beast, and that only for parsing.
#include "api/http_request_parser.h"

#include <fmt/format.h>

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <optional>
#include <utility>

namespace mesh::api {

namespace http = boost::beast::http;
using boost::system::error_code;

struct HttpRequestParser::State {
  std::size_t header_bytes, body_bytes;
  boost::beast::flat_buffer buffer;
  std::optional<http::request_parser<http::string_body>> parser;
  bool header_taken = false;
  HttpRequest request;  // header part, complete once the parser has passed the header
  std::optional<Refusal> refused;

  State(std::size_t header, std::size_t body) : header_bytes(header), body_bytes(body) {}

  void refuse(int status, std::string why) { refused = Refusal{status, std::move(why)}; }
  void refuse_parse(const error_code& ec);
  bool begin();
  bool read_header();
  void take_header();
  void check_header(std::size_t hosts);
  bool read_body();
};

HttpRequestParser::HttpRequestParser(std::size_t header_bytes, std::size_t body_bytes)
    : state_(std::make_unique<State>(header_bytes, body_bytes)) {}

HttpRequestParser::~HttpRequestParser() = default;

void HttpRequestParser::append(std::string_view bytes) {
  state_->buffer.commit(
      boost::asio::buffer_copy(state_->buffer.prepare(bytes.size()), boost::asio::buffer(bytes)));
}

std::size_t HttpRequestParser::buffered() const {
  return state_->buffer.size();
}

void HttpRequestParser::drop_buffered() {
  state_->buffer.consume(state_->buffer.size());
}

HttpRequestParser::Progress HttpRequestParser::advance() {
  State& s = *state_;
  if (!s.parser && !s.begin()) return Progress::kNothing;
  if (!s.header_taken && !s.read_header())
    return s.refused ? Progress::kRefused : Progress::kHeader;
  if (s.refused) return Progress::kRefused;
  if (!s.parser->is_done() && !s.read_body())
    return s.refused ? Progress::kRefused : Progress::kBody;
  return Progress::kComplete;
}

bool HttpRequestParser::State::begin() {
  // RFC 9112 section 2.2: empty lines before a request are ignored.
  while (buffer.size() > 0) {
    const char first = *static_cast<const char*>(buffer.data().data());
    if (first != '\r' && first != '\n') break;
    buffer.consume(1);
  }
  if (buffer.size() == 0) return false;
  parser.emplace();
  parser->header_limit(static_cast<std::uint32_t>(header_bytes));
  parser->body_limit(body_bytes);
  return true;
}

// false: more bytes are needed, or the request has been refused.
bool HttpRequestParser::State::read_header() {
  error_code ec;
  parser->eager(false);
  while (!parser->is_header_done()) {
    if (buffer.size() == 0) return false;
    const std::size_t used = parser->put(buffer.data(), ec);
    buffer.consume(used);
    if (ec == http::error::need_more) {
      ec = {};
      if (used == 0) return false;
      continue;
    }
    if (ec) {
      refuse_parse(ec);
      return false;
    }
  }
  take_header();
  return !refused;
}

// Takes the header out of the parser (trailers of a chunked body never reach it).
void HttpRequestParser::State::take_header() {
  const auto& message = parser->get();
  header_taken = true;
  request = HttpRequest{};
  request.method = std::string(message.method_string());
  request.target = std::string(message.target());
  Target target = split_target(request.target);
  request.path = std::move(target.path);
  request.query = std::move(target.query);
  request.keep_alive = parser->keep_alive();
  std::size_t hosts = 0;
  for (const auto& field : message) {
    const std::string name = to_lower({field.name_string().data(), field.name_string().size()});
    const std::string value(field.value().data(), field.value().size());
    if (name == "host") ++hosts;
    auto [at, fresh] = request.headers.emplace(name, value);
    if (!fresh) at->second += ", " + value;
  }
  check_header(hosts);
}

// Refuses what Beast lets through but which two servers could read differently.
void HttpRequestParser::State::check_header(std::size_t hosts) {
  const unsigned version = parser->get().version();
  if (version != 10 && version != 11)
    return refuse(505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
  const std::string_view encoding = request.header("transfer-encoding");
  if (request.headers.count("transfer-encoding") != 0 &&
      (version == 10 || !equals_ignore_case(trim(encoding), "chunked")))
    return refuse(400, "Transfer-Encoding must be \"chunked\", with HTTP/1.1");
  if (hosts > 1 || (version == 11 && hosts == 0))
    return refuse(400, hosts > 1 ? "more than one Host header" : "the Host header is missing");
  const std::string_view expect = request.header("expect");
  if (!expect.empty() && !equals_ignore_case(expect, "100-continue"))
    refuse(417, "only Expect: 100-continue is understood");
}

bool HttpRequestParser::State::read_body() {
  error_code ec;
  parser->eager(true);
  while (!parser->is_done()) {
    // Every chunked body ends in at least the 5 bytes "0\r\n\r\n", taken at once. Beast 1.81
    // asserts that much when it resumes in a last chunk, so it is never given less.
    if (buffer.size() < (parser->chunked() ? 5u : 1u)) return false;
    const std::size_t used = parser->put(buffer.data(), ec);
    buffer.consume(used);
    if (ec == http::error::need_more) {
      ec = {};
      if (used != 0) continue;
      // Chunk extensions and trailers that do not end.
      if (buffer.size() > header_bytes) refuse(431, "a chunk header is too long");
      return false;
    }
    if (ec) {
      refuse_parse(ec);
      return false;
    }
  }
  return true;
}

void HttpRequestParser::State::refuse_parse(const error_code& ec) {
  if (ec == http::error::body_limit)
    return refuse(413, fmt::format("the request body is larger than {} bytes", body_bytes));
  if (ec == http::error::header_limit)
    return refuse(431, fmt::format("the request header is larger than {} bytes", header_bytes));
  refuse(400, fmt::format("malformed HTTP request: {}", ec.message()));
}

const HttpRequestParser::Refusal& HttpRequestParser::refusal() const {
  return *state_->refused;
}

std::size_t HttpRequestParser::body_held() const {
  return state_->parser ? state_->parser->get().body().size() : 0;
}

bool HttpRequestParser::expects_continue() const {
  const State& s = *state_;
  return s.header_taken && !s.parser->is_done() && s.buffer.size() == 0 && body_held() == 0 &&
         equals_ignore_case(s.request.header("expect"), "100-continue");
}

bool HttpRequestParser::is_head() const {
  return state_->header_taken && state_->request.method == "HEAD";
}

bool HttpRequestParser::is_http10() const {
  return state_->header_taken && state_->parser->get().version() == 10;
}

bool HttpRequestParser::keep_alive() const {
  return state_->header_taken && state_->request.keep_alive;
}

HttpRequest HttpRequestParser::take() {
  HttpRequest out = std::move(state_->request);
  out.body = std::move(state_->parser->get().body());
  reset();
  return out;
}

void HttpRequestParser::reset() {
  state_->parser.reset();
  state_->header_taken = false;
  state_->request = HttpRequest{};
  state_->refused.reset();
}

}  // namespace mesh::api
