#include "stream_client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

namespace mesh::load {
namespace {

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::abort();
}

}  // namespace

Stream::Stream(const std::string& url, const std::string& path, const std::string& body,
               const StreamOptions& options)
    : options_(options), started_(Clock::now()), due_(started_) {
  const int port = std::stoi(url.substr(url.rfind(':') + 1));
  fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) die("socket");
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &options.receive_buffer, sizeof(int));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    die("connect");
  const std::string request = "POST " + path +
                              " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(port) +
                              "\r\nContent-Type: application/json\r\nConnection: close\r\n"
                              "Content-Length: " +
                              std::to_string(body.size()) + "\r\n\r\n" + body;
  for (std::size_t sent = 0; sent < request.size();) {
    const ssize_t n = ::send(fd_, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) die("send");
    sent += static_cast<std::size_t>(n);
  }
  ::fcntl(fd_, F_SETFL, O_NONBLOCK);
}

Stream::~Stream() {
  ::close(fd_);
}

void Stream::read_some(Clock::time_point now) {
  std::array<char, 16384> buffer{};
  const bool slowly = slow() && now - started_ < options_.slow_for;
  const std::size_t most = slowly ? 1 : buffer.size();
  const ssize_t n = ::recv(fd_, buffer.data(), most, 0);
  if (n > 0) received_.append(buffer.data(), static_cast<std::size_t>(n));
  if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
    over_ = true;
    ended_ = now;
  }
  if (slowly)
    due_ = now + std::chrono::duration_cast<Clock::duration>(
                     std::chrono::duration<double>(1 / options_.bytes_per_second));
}

// The chunk sizes of HTTP's transfer coding stand between events, never within one: the server
// writes each event as one chunk.
std::string Stream::text() const {
  std::string out;
  std::istringstream lines(received_);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("data: {", 0) != 0) continue;
    const nlohmann::json json = nlohmann::json::parse(line.substr(6), nullptr, false);
    if (!json.is_object() || !json.contains("choices")) continue;
    for (const auto& choice : json["choices"])
      if (choice["delta"].contains("content") && choice["delta"]["content"].is_string())
        out += choice["delta"]["content"].get<std::string>();
  }
  return out;
}

bool Stream::has_error(const std::string& code) const {
  return received_.find("\"code\":\"" + code + "\"") != std::string::npos;
}

bool read_all(const std::vector<std::unique_ptr<Stream>>& streams, std::chrono::seconds deadline) {
  const Clock::time_point end = Clock::now() + deadline;
  for (;;) {
    const Clock::time_point now = Clock::now();
    if (now >= end) return false;
    std::vector<pollfd> waiting;
    std::vector<Stream*> whose;
    bool open = false;
    for (const auto& stream : streams) {
      if (stream->over()) continue;
      open = true;
      if (stream->slow()) {
        if (now >= stream->due()) stream->read_some(now);
        continue;
      }
      waiting.push_back({stream->fd(), POLLIN, 0});
      whose.push_back(stream.get());
    }
    if (!open) return true;
    ::poll(waiting.data(), waiting.size(), 20);
    for (std::size_t i = 0; i < waiting.size(); ++i)
      if (waiting[i].revents != 0) whose[i]->read_some(Clock::now());
  }
}

}  // namespace mesh::load
