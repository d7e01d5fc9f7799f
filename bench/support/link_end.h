#pragma once
// One end of a real link, with the threads of a node: an I/O thread and a control loop.

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>

#include "base/events.h"
#include "env/real_loop.h"
#include "env/transport.h"
#include "measure/real_time.h"
#include "net/identity.h"
#include "net/io_thread.h"
#include "net/tls_transport.h"

namespace mesh::bench {

using measure::run_on;

class LinkEnd final : public env::TransportHandler {
 public:
  // Errors: unavailable (no port).
  static Result<std::unique_ptr<LinkEnd>> start();
  ~LinkEnd() override;

  PeerId id() const { return identity_.id(); }
  env::Address address() const { return {"127.0.0.1", port_}; }
  env::RealLoop& loop() { return loop_; }
  net::TlsTransport& transport() { return *transport_; }  // on its loop
  // Called on the loop; set it there or before link().
  void set_receiver(std::function<void(env::Frame)> receiver) { receiver_ = std::move(receiver); }
  // False when there is no link after a few seconds.
  bool wait_link();

  void on_link_up(const env::LinkInfo& link) override;
  void on_frame(PeerId from, env::Frame frame) override;
  void on_link_down(PeerId peer, const Error& why) override;
  void on_dial_failed(const env::Address& address, const Error& why) override;

 private:
  LinkEnd();

  NullEvents events_;
  net::NodeIdentity identity_;
  net::IoThread io_;
  env::RealLoop loop_;
  std::unique_ptr<net::TlsTransport> transport_;
  std::uint16_t port_ = 0;
  std::function<void(env::Frame)> receiver_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool linked_ = false;
};

// Dials `through`, behind which `to` listens, and waits until both ends have the link.
Result<void> link(LinkEnd& from, LinkEnd& to, const env::Address& through);

}  // namespace mesh::bench
