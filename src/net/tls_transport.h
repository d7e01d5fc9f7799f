#pragma once
// Peer links over TCP and mutual TLS 1.3.

#include <cstdint>
#include <memory>
#include <string>

#include "base/events.h"
#include "env/env.h"
#include "env/transport.h"
#include "net/identity.h"
#include "net/io_thread.h"

namespace mesh::net {

// What it proves: the peer holds the key whose SHA-256 is its id. Whether that peer is welcome is
// decided above, by HELLO; until the handler has seen the first frame of a link, nothing behind it
// is read, and its payload is at most limits::kFirstFrameBytes.
//
// Of several connections between two nodes the end with the smaller id keeps the first that is
// ready and refuses the others before they become links, so no link is ever replaced while it
// works. A refused dial ends with on_dial_failed(kCancelled, "… already linked …"); a dial of this
// node itself with kInvalidArgument; a node that cannot be reached with kUnavailable or
// kDeadlineExceeded. LinkInfo::remote of an outbound link is the address as it was dialled.
//
// Frames of a link keep their order, but for Priority::kBulk, which goes when nothing else waits;
// a frame under way is not interrupted, so bulk frames should be small (256 KiB).
//
// Threads: listen() from any; everything else from the control loop, or before it runs. Destroy it
// before `io`, on the control loop or after its end; links are cut, no handler is called any more.
class TlsTransport final : public env::Transport {
 public:
  // All outlive the transport. Events: net.link_up, net.link_down (info), net.refused (debug).
  TlsTransport(IoThread& io, env::Loop& loop, Events& events, const NodeIdentity& identity);
  ~TlsTransport() override;
  TlsTransport(const TlsTransport&) = delete;
  TlsTransport& operator=(const TlsTransport&) = delete;

  // Accepts peers on the first free port from `first_port` on (0: any). May be called for several
  // addresses. Errors: as bind_next_free().
  Result<std::uint16_t> listen(const std::string& host, std::uint16_t first_port, int tries = 1);

  PeerId self() const override;
  void set_handler(env::TransportHandler* handler) override;
  void dial(const env::Address& address) override;
  Result<void> send(PeerId to, env::Frame frame) override;
  // on_link_down(peer, why) follows on a later turn and no frame in between; the peer is told
  // why.message (at most limits::kCloseReasonBytes, ASCII).
  void close(PeerId peer, const Error& why) override;
  env::Traffic traffic(PeerId peer) const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::net
