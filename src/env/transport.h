#pragma once
// Frames between authenticated peers. Implementations: net/tls_transport (TCP, mutual TLS 1.3),
// env/memory_transport (tests), sim/ (virtual time). All of them encode a frame with wire/frame, so
// the codec is always exercised.

#include <cstdint>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/result.h"

namespace mesh::env {

enum class Priority : std::uint8_t { kControl = 0, kDecode = 1, kPrefill = 2, kBulk = 3 };

// One message: a protobuf header (wire/messages.h) and raw bytes beside it (hidden rows, token
// ids).
struct Frame {
  std::uint8_t type = 0;  // wire::FrameType
  std::uint16_t flags = 0;
  Priority priority = Priority::kControl;
  std::uint64_t stream = 0;
  Buffer header;   // ≤ limits::kFrameHeaderBytes
  Buffer payload;  // ≤ limits::kFramePayloadBytes
};

// "host:port", "[v6]:port".
struct Address {
  std::string host;
  std::uint16_t port = 0;
  auto operator<=>(const Address&) const = default;
  std::string to_string() const;
  static Result<Address> parse(std::string_view text);  // invalid_argument says what is wrong
};

// What is known of a link once both ends have proved their keys.
struct LinkInfo {
  PeerId peer;
  Address remote;
  bool outbound = false;  // we dialled
};

// Bytes of the stream as they are on the wire, its encryption included.
struct Traffic {
  std::uint64_t sent = 0, received = 0;
  Traffic& operator+=(const Traffic& other) {
    sent += other.sent;
    received += other.received;
    return *this;
  }
};

// Called on the control loop, never from within a Transport call.
class TransportHandler {
 public:
  virtual ~TransportHandler() = default;
  virtual void on_link_up(const LinkInfo& link) = 0;
  virtual void on_frame(PeerId from, Frame frame) = 0;
  // After this no frame of that link arrives. `why` says who closed it and the reason given.
  virtual void on_link_down(PeerId peer, const Error& why) = 0;
  virtual void on_dial_failed(const Address& address, const Error& why) = 0;
};

// At most one link per peer (of two simultaneous dials the one started by the smaller id survives).
// Frames of one peer arrive in the order sent; a lost link loses what was queued. Control-loop
// only, except where an implementation says.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual PeerId self() const = 0;
  virtual void set_handler(TransportHandler* handler) = 0;  // before the first dial; not owned
  virtual void dial(const Address& address) = 0;            // outcome: on_link_up or on_dial_failed
  // To self: delivered to the own handler on a later turn. Errors: not_found (no link),
  // resource_exhausted (queue full, limits::kLinkQueueBytes), invalid_argument (over a frame
  // limit).
  virtual Result<void> send(PeerId to, Frame frame) = 0;
  // Closes after what is queued has been written, at the latest after a second.
  virtual void close(PeerId peer, const Error& why) = 0;
  // Over all links with the peer so far; zeros where nobody counts.
  virtual Traffic traffic(PeerId) const { return {}; }
};

}  // namespace mesh::env
