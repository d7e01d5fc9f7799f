#include "net/ports.h"

#include <dirent.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sstream>

#include "env/transport.h"

namespace mesh::net {
namespace {

constexpr int kBacklog = 128;

std::string place(const std::string& host, std::uint32_t port) {
  return env::Address{host, static_cast<std::uint16_t>(port)}.to_string();
}

void set_port(sockaddr_storage& address, std::uint16_t port) {
  if (address.ss_family == AF_INET6)
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = htons(port);
  else
    reinterpret_cast<sockaddr_in&>(address).sin_port = htons(port);
}

std::uint16_t bound_port(int descriptor) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// A listening socket, or errno.
struct Attempt {
  std::optional<ListeningSocket> socket;
  int failure = 0;
};

Attempt listen_at(const sockaddr_storage& address, socklen_t size) {
  const bool v6 = address.ss_family == AF_INET6;
  const int descriptor = ::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return {std::nullopt, errno};
  ListeningSocket owner(descriptor, 0, v6);
  const int on = 1, off = 0;
  ::setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (v6) ::setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), size) != 0 ||
      ::listen(descriptor, kBacklog) != 0)
    return {std::nullopt, errno};
  return {ListeningSocket(owner.release(), bound_port(descriptor), v6), 0};
}

// Inodes of the sockets that listen on `port`, from one table of /proc/net. A line:
//   sl: local_address:port remote state queues timer retransmits uid timeout inode …
void collect_inodes(const char* table, std::uint16_t port, std::set<std::string>& inodes) {
  std::ifstream file(table);
  std::string line;
  std::getline(file, line);  // headings
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string number, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
    words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> uid >>
        timeout >> inode;
    const std::size_t colon = local.rfind(':');
    if (colon == std::string::npos || state != "0A" || inode.empty()) continue;
    std::uint32_t value = 0;
    const char* end = local.data() + local.size();
    if (std::from_chars(local.data() + colon + 1, end, value, 16).ptr == end && value == port)
      inodes.insert("socket:[" + inode + "]");
  }
}

bool holds_one(const std::filesystem::path& process, const std::set<std::string>& inodes) {
  std::error_code failure;
  for (std::filesystem::directory_iterator it(process / "fd", failure), end; !failure && it != end;
       it.increment(failure)) {
    std::error_code unreadable;
    if (inodes.count(std::filesystem::read_symlink(it->path(), unreadable).string()) > 0)
      return true;
  }
  return false;
}

}  // namespace

ListeningSocket& ListeningSocket::operator=(ListeningSocket&& other) noexcept {
  if (this != &other) {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = other.release();
    port_ = other.port_;
    v6_ = other.v6_;
  }
  return *this;
}

ListeningSocket::~ListeningSocket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Result<ListeningSocket> bind_next_free(const std::string& host, std::uint16_t first_port,
                                       int tries) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int failure = ::getaddrinfo(host.c_str(), nullptr, &hints, &found); failure != 0)
    return Error(Code::kNotFound, fmt::format("'{}' is not an address of this machine: {}", host,
                                              ::gai_strerror(failure)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  sockaddr_storage address{};
  std::memcpy(&address, found->ai_addr, found->ai_addrlen);
  if (first_port == 0) tries = 1;
  std::uint32_t port = first_port;
  int failure = EADDRINUSE;
  for (int i = 0; i < tries && port <= 65535; ++i, ++port) {
    set_port(address, static_cast<std::uint16_t>(port));
    Attempt attempt = listen_at(address, found->ai_addrlen);
    if (attempt.socket) return std::move(*attempt.socket);
    failure = attempt.failure;
    if (failure != EADDRINUSE) break;
  }
  if (failure != EADDRINUSE)
    return Error(Code::kUnavailable,
                 fmt::format("cannot listen on {}: {}", place(host, port), std::strerror(failure)));
  const Result<std::string> holder = port_owner(first_port);
  const std::string by = holder.ok() ? " by " + *holder : "";
  if (tries <= 1)
    return Error(Code::kUnavailable, fmt::format("cannot listen on {}: the port is in use{}",
                                                 place(host, first_port), by));
  return Error(Code::kUnavailable,
               fmt::format("cannot listen on {}: the ports {} to {} are all in use ({}{})", host,
                           first_port, port - 1, first_port, by.empty() ? " too" : by));
}

Result<std::string> port_owner(std::uint16_t port) {
  const Error unknown(Code::kNotFound, fmt::format("no process is known to hold port {}", port));
  std::set<std::string> inodes;
  collect_inodes("/proc/net/tcp", port, inodes);
  collect_inodes("/proc/net/tcp6", port, inodes);
  if (inodes.empty()) return unknown;
  std::error_code failure;
  for (std::filesystem::directory_iterator it("/proc", failure), end; !failure && it != end;
       it.increment(failure)) {
    const std::string name = it->path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (!holds_one(it->path(), inodes)) continue;
    std::ifstream file(it->path() / "comm");
    std::string command;
    std::getline(file, command);
    return fmt::format("PID {} ({})", name, command.empty() ? "unknown" : command);
  }
  return unknown;
}

}  // namespace mesh::net
