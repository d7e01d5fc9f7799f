#pragma once
// Links between endpoints of one process, for tests: frames are copied, nothing is lost, delayed or
// encrypted. sim/ has the network with faults and the wire codec.

#include <memory>

#include "env/env.h"
#include "env/transport.h"

namespace mesh::env {

class MemoryTransport;

// The wire. Thread-safe; outlives no one: endpoints share it.
class MemoryNetwork {
 public:
  MemoryNetwork();
  ~MemoryNetwork();
  MemoryNetwork(const MemoryNetwork&) = delete;
  MemoryNetwork& operator=(const MemoryNetwork&) = delete;
  // An endpoint that is found under `address`. Its handler is called on `loop`, which outlives it.
  // Destroy it on its loop, or once the loop has ended; its peers then see on_link_down.
  std::unique_ptr<MemoryTransport> attach(PeerId self, Address address, Loop& loop);

 private:
  friend class MemoryTransport;
  struct State;
  std::shared_ptr<State> state_;
};

class MemoryTransport final : public Transport {
 public:
  ~MemoryTransport() override;
  MemoryTransport(const MemoryTransport&) = delete;
  MemoryTransport& operator=(const MemoryTransport&) = delete;

  PeerId self() const override;
  void set_handler(TransportHandler* handler) override;
  void dial(const Address& address) override;
  Result<void> send(PeerId to, Frame frame) override;
  void close(PeerId peer, const Error& why) override;

 private:
  friend class MemoryNetwork;
  struct Endpoint;
  MemoryTransport(std::shared_ptr<MemoryNetwork::State> network,
                  std::shared_ptr<Endpoint> endpoint);
  std::shared_ptr<MemoryNetwork::State> network_;
  std::shared_ptr<Endpoint> endpoint_;
};

// A frame with the same contents.
Frame copy_of(const Frame& frame);

}  // namespace mesh::env
