#pragma once
// Listening sockets: the next free port, and who holds a busy one.

#include <cstdint>
#include <string>

#include "base/result.h"

namespace mesh::net {

// A listening TCP socket, closed when destroyed unless released. Move-only.
class ListeningSocket {
 public:
  ListeningSocket(int descriptor, std::uint16_t port, bool v6)
      : descriptor_(descriptor), port_(port), v6_(v6) {}
  ListeningSocket(ListeningSocket&& other) noexcept
      : descriptor_(other.release()), port_(other.port_), v6_(other.v6_) {}
  ListeningSocket& operator=(ListeningSocket&& other) noexcept;
  ~ListeningSocket();

  std::uint16_t port() const { return port_; }
  bool v6() const { return v6_; }
  int release() {
    const int descriptor = descriptor_;
    descriptor_ = -1;
    return descriptor;
  }

 private:
  int descriptor_;
  std::uint16_t port_;
  bool v6_;
};

// Listens on the first free port of [first_port, first_port + tries); port 0 takes any free one.
// `host`: a numeric address, or a name of this machine. "::" serves IPv4 too. SO_REUSEADDR (a
// restart need not wait for old connections), never SO_REUSEPORT. Blocks for a name. Errors:
// unavailable, with who holds the port when only one was tried; invalid_argument; not_found for a
// name.
Result<ListeningSocket> bind_next_free(const std::string& host, std::uint16_t first_port,
                                       int tries);

// Who listens on a TCP port of this machine: "PID 812 (llama-server)". Errors: not_found when
// nobody does or /proc does not tell (another user's process).
Result<std::string> port_owner(std::uint16_t port);

}  // namespace mesh::net
