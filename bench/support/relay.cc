#include "bench/support/relay.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace mesh::bench {
namespace {

constexpr int kStopPollMs = 50;

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

void send_at_once(int socket) {
  const int on = 1;
  (void)setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

Result<std::unique_ptr<Relay>> Relay::start(const env::Address& target) {
  std::unique_ptr<Relay> relay(new Relay());
  relay->target_port_ = target.port;
  relay->listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (relay->listener_ < 0 || ::bind(relay->listener_, generic, size) != 0 ||
      ::listen(relay->listener_, 1) != 0 || ::getsockname(relay->listener_, generic, &size) != 0)
    return Error(Code::kUnavailable, fmt::format("a relay's socket: {}", std::strerror(errno)));
  relay->port_ = ntohs(address.sin_port);
  relay->thread_ = std::thread([at = relay.get()] { at->run(); });
  return relay;
}

Relay::~Relay() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
  if (listener_ >= 0) ::close(listener_);
}

bool Relay::pass(int from, int to, std::atomic<std::uint64_t>& count) {
  std::array<char, 64 * 1024> bytes;
  const ssize_t got = ::recv(from, bytes.data(), bytes.size(), 0);
  if (got <= 0) return false;
  count += static_cast<std::uint64_t>(got);
  for (ssize_t sent = 0; sent < got;) {
    const ssize_t part =
        ::send(to, bytes.data() + sent, static_cast<std::size_t>(got - sent), MSG_NOSIGNAL);
    if (part <= 0) return false;
    sent += part;
  }
  return true;
}

void Relay::run() {
  pollfd waiting{listener_, POLLIN, 0};
  while (!stopping_ && ::poll(&waiting, 1, kStopPollMs) <= 0) {
  }
  if (stopping_) return;
  const int near = ::accept(listener_, nullptr, nullptr);
  const int far = ::socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in target = loopback(target_port_);
  bool open = near >= 0 && far >= 0 &&
              ::connect(far, reinterpret_cast<const sockaddr*>(&target), sizeof target) == 0;
  send_at_once(near);
  send_at_once(far);
  std::array<pollfd, 2> ends{pollfd{near, POLLIN, 0}, pollfd{far, POLLIN, 0}};
  while (open && !stopping_) {
    if (::poll(ends.data(), ends.size(), kStopPollMs) <= 0) continue;
    if (ends[0].revents != 0) open = pass(near, far, forward_);
    if (open && ends[1].revents != 0) open = pass(far, near, back_);
  }
  if (near >= 0) ::close(near);
  if (far >= 0) ::close(far);
}

}  // namespace mesh::bench
