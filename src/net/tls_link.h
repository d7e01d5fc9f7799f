#pragma once
// One TCP connection to a peer: connect, TLS, confirmation, frames, orderly end. Internal to net:
// TlsTransport owns the set of links and speaks with the control loop.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "env/transport.h"
#include "net/identity.h"

namespace boost::asio {
class io_context;
}
struct ssl_ctx_st;  // OpenSSL's SSL_CTX

namespace mesh::net {

// Frames of the transport itself. They never reach a handler.
//   stream kConfirm: the end with the smaller id has chosen this connection; it is the link
//   stream kDuplicate: it has another connection with this peer, or room for no more; refused
//   stream kBye: nothing follows; the header is a sentence that says why
inline constexpr std::uint8_t kTransportFrame = 0;
enum class Signal : std::uint64_t { kConfirm = 1, kDuplicate = 2, kBye = 3 };

// Counted for every queued frame on top of its parts, so that empty frames fill a queue too.
inline constexpr std::size_t kFrameOverheadBytes = 128;

// What control loop and I/O thread share about a link.
struct LinkShare {
  LinkShare(PeerId id, env::Address address, bool dialled)
      : peer(id), remote(std::move(address)), outbound(dialled) {}
  const PeerId peer;
  const env::Address remote;
  const bool outbound;

  // Outgoing. The control loop appends to the outbox, the link empties it.
  std::atomic<std::size_t> queued_bytes{0};  // handed to send() and not yet written
  std::mutex mutex;
  std::vector<env::Frame> outbox;
  bool wake_posted = false;  // guarded by mutex

  // Incoming: read and not yet handled. Reading pauses at half of the limits, since the frame
  // under way may be as large again.
  std::atomic<std::size_t> inbox_bytes{0};
  std::atomic<std::size_t> inbox_frames{0};
  std::atomic<bool> first_unhandled{false};  // nothing is read behind an unhandled first frame
  std::atomic<bool> paused{false};
  bool has_room() const;

  std::atomic<std::uint64_t> sent{0}, received{0};  // bytes of the stream since the handshake

  bool closing = false;  // control loop only: close() was called
};

// All members are called with the host's mutex held, by the I/O thread or another. Kept alive by
// its own operations, whose handlers run on the I/O thread and take the mutex.
class TlsLink {
 public:
  // Called with the mutex held.
  class Host {
   public:
    virtual ~Host() = default;
    virtual PeerId self() const = 0;
    virtual std::mutex& mutex() = 0;
    // At the end with the smaller id: may this connection be the link with link.peer()? An error
    // refuses it and tells the peer.
    virtual Result<void> choose(TlsLink& link) = 0;
    // The connection is the link, at both ends or soon.
    virtual void on_up(TlsLink& link) = 0;
    virtual void on_frame(TlsLink& link, env::Frame frame) = 0;
    // Last call, exactly once for every link that was started.
    virtual void on_end(TlsLink& link, const Error& why) = 0;
  };

  // `host` outlives the link; `context` is from make_tls_context().
  static std::shared_ptr<TlsLink> create(boost::asio::io_context& io, ssl_ctx_st* context,
                                         std::shared_ptr<Host> host);
  virtual ~TlsLink() = default;

  virtual void dial(const env::Address& address) = 0;
  virtual void accept(int descriptor, bool v6, const env::Address& remote) = 0;
  virtual void take_outbox() = 0;                         // frames were appended
  virtual void resume_reading() = 0;                      // the inbox has room again
  virtual void close_gracefully(std::string reason) = 0;  // writes what is queued, then ends
  virtual void abort(const Error& why) = 0;               // ends now

  virtual bool up() const = 0;
  virtual bool outbound() const = 0;
  virtual const env::Address& remote() const = 0;
  virtual PeerId peer() const = 0;                       // empty before the handshake
  virtual std::shared_ptr<LinkShare> share() const = 0;  // from the handshake on
};

// TLS 1.3 only, both ends show an ed25519 leaf, ALPN mesh/1, no tickets, no early data. Any
// well-formed leaf is accepted: TLS proves that the peer holds its key, the key is the id, and
// whether that id is welcome is for membership to say.
std::shared_ptr<ssl_ctx_st> make_tls_context(const NodeIdentity& identity);

}  // namespace mesh::net
