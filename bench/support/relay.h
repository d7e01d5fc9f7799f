#pragma once
// A TCP relay on loopback that counts what passes: the bytes that a link really costs, TLS records
// included, without asking the code that is measured.

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "base/result.h"
#include "env/transport.h"

namespace mesh::bench {

// Takes one connection and passes it on to `target` on a thread of its own. A byte is counted
// before it is passed on, so whoever has received it finds it counted.
class Relay {
 public:
  // Errors: unavailable (no socket).
  static Result<std::unique_ptr<Relay>> start(const env::Address& target);
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  env::Address address() const { return {"127.0.0.1", port_}; }
  std::uint64_t bytes_forward() const { return forward_; }  // from who dialled to the target
  std::uint64_t bytes_back() const { return back_; }

 private:
  Relay() = default;
  void run();
  bool pass(int from, int to, std::atomic<std::uint64_t>& count);

  int listener_ = -1;
  std::uint16_t port_ = 0, target_port_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> forward_{0}, back_{0};
  std::thread thread_;
};

}  // namespace mesh::bench
