#pragma once
// A blocking HTTP client for tests, over plain sockets so that any bytes can be sent. Every read
// has a deadline, after which it reports the end of the stream.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "api/http_text.h"

namespace mesh::api {

struct TestResponse {
  int status = 0;  // 0: the connection ended first
  std::map<std::string, std::string> headers;
  std::string body;  // chunks joined
};

class TestClient {
 public:
  explicit TestClient(std::uint16_t port, int receive_buffer = 0) {
    fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer > 0)
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    const timeval limit{20, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~TestClient() { close(); }
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  bool connected() const { return connected_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  void shutdown_write() { ::shutdown(fd_, SHUT_WR); }

  // false when the server has closed the connection.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  // Everything up to and including `end`; what there is when the stream ends before.
  std::string read_until(std::string_view end) {
    std::size_t at = 0;
    while ((at = buffer_.find(end)) == std::string::npos)
      if (!fill()) return take(buffer_.size());
    return take(at + end.size());
  }
  std::string read_to_end() {
    while (fill()) {
    }
    return take(buffer_.size());
  }
  std::string read_count(std::size_t count) {
    while (buffer_.size() < count && fill()) {
    }
    return take(std::min(count, buffer_.size()));
  }

  TestResponse read_head() {
    TestResponse out;
    std::string head = read_until("\r\n\r\n");
    if (head.size() < 12 || head.rfind("HTTP/1.1 ", 0) != 0) return out;
    out.status = std::atoi(head.c_str() + 9);
    std::size_t at = head.find("\r\n") + 2;
    while (at < head.size() - 2) {
      const std::size_t end = head.find("\r\n", at);
      const std::size_t colon = head.find(':', at);
      out.headers[to_lower(head.substr(at, colon - at))] =
          std::string(trim(std::string_view(head).substr(colon + 1, end - colon - 1)));
      at = end + 2;
    }
    return out;
  }
  // "" at the last chunk or the end of the stream.
  std::string read_chunk() {
    const std::size_t size = std::strtoul(read_until("\r\n").c_str(), nullptr, 16);
    std::string chunk = read_count(size);
    read_count(2);
    return chunk;
  }
  TestResponse read_response(bool head_only = false) {
    TestResponse out = read_head();
    if (head_only || out.status == 0 || out.status == 204 || out.status == 304) return out;
    if (out.headers.count("transfer-encoding") != 0) {
      for (std::string chunk = read_chunk(); !chunk.empty(); chunk = read_chunk())
        out.body += chunk;
    } else if (out.headers.count("content-length") != 0) {
      out.body = read_count(std::strtoul(out.headers["content-length"].c_str(), nullptr, 10));
    } else if (out.status != 100) {
      out.body = read_to_end();
    }
    return out;
  }

  TestResponse request(std::string_view method, std::string_view path, std::string_view body = {},
                       std::string_view headers = {}) {
    send(text(method, path, body, headers));
    return read_response(method == "HEAD");
  }
  // `headers` are whole lines, each ended by CRLF.
  static std::string text(std::string_view method, std::string_view path,
                          std::string_view body = {}, std::string_view headers = {}) {
    std::string out = std::string(method) + " " + std::string(path) + " HTTP/1.1\r\n";
    if (headers.find("Host:") == std::string_view::npos) out += "Host: localhost\r\n";
    out += headers;
    if (!body.empty()) out += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    out += "\r\n";
    out += body;
    return out;
  }

 private:
  bool fill() {
    char bytes[16384];
    const ssize_t got = ::recv(fd_, bytes, sizeof bytes, 0);
    if (got <= 0) return false;
    buffer_.append(bytes, static_cast<std::size_t>(got));
    return true;
  }
  std::string take(std::size_t count) {
    std::string out = buffer_.substr(0, count);
    buffer_.erase(0, count);
    return out;
  }

  int fd_ = -1;
  bool connected_ = false;
  std::string buffer_;
};

}  // namespace mesh::api
