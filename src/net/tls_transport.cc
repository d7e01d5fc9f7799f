#include "net/tls_transport.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <unordered_map>

#include "base/check.h"
#include "base/limits.h"
#include "net/ports.h"
#include "net/tls_link.h"
#include "wire/frame.h"

namespace mesh::net {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

constexpr std::size_t kMailPerTurn = 64;
constexpr std::chrono::seconds kShutdownPatience{2};

std::size_t cost_of(const env::Frame& frame) {
  return frame.header.size() + frame.payload.size() + kFrameOverheadBytes;
}

// News for the control loop, in order. At most one task of it waits in the loop, so that many
// frames cost few posts and the I/O thread hardly ever meets a full loop.
class Mailbox : public std::enable_shared_from_this<Mailbox> {
 public:
  Mailbox(env::Loop& loop, asio::io_context& io) : loop_(loop), io_(io) {}

  // From the hub. The I/O thread delivers it, when it has left the hub.
  void push(std::function<void()> news) {
    if (!add(std::move(news))) return;
    asio::post(io_, [self = shared_from_this()] {
      if (!self->closed()) self->loop_.dispatch([self] { self->drain(); });
    });
  }
  // From the control loop itself.
  void push_own(std::function<void()> news) {
    if (add(std::move(news))) loop_.post([self = shared_from_this()] { self->drain(); });
  }
  void close() {
    std::deque<std::function<void()>> dropped;
    std::lock_guard lock(mutex_);
    closed_ = true;
    dropped.swap(news_);
  }

 private:
  // True when the loop is to be told.
  bool add(std::function<void()> news) {
    std::lock_guard lock(mutex_);
    if (closed_) return false;
    news_.push_back(std::move(news));
    return !std::exchange(posted_, true);
  }
  bool closed() {
    std::lock_guard lock(mutex_);
    return closed_;
  }
  // A handler may destroy the transport: closed_ is looked at before every piece.
  void drain() {
    for (std::size_t i = 0; i < kMailPerTurn; ++i) {
      std::function<void()> news;
      {
        std::lock_guard lock(mutex_);
        if (closed_ || news_.empty()) {
          posted_ = false;
          return;
        }
        news = std::move(news_.front());
        news_.pop_front();
      }
      news();
    }
    loop_.post([self = shared_from_this()] { self->drain(); });
  }

  env::Loop& loop_;
  asio::io_context& io_;
  std::mutex mutex_;
  std::deque<std::function<void()>> news_;
  bool posted_ = false, closed_ = false;
};

// The control loop's view: which links the handler knows of.
class Desk {
 public:
  Desk(PeerId self, Events& events) : self_(self), events_(events) {}

  env::TransportHandler* handler = nullptr;

  void link_up(const std::shared_ptr<LinkShare>& share) {
    links_[share->peer] = share;
    events_.info("net.link_up", {{"peer", share->peer.short_name()},
                                 {"remote", share->remote.to_string()},
                                 {"outbound", share->outbound}});
    if (handler != nullptr)
      handler->on_link_up(env::LinkInfo{share->peer, share->remote, share->outbound});
  }
  void link_down(const std::shared_ptr<LinkShare>& share, const Error& why) {
    const auto it = links_.find(share->peer);
    if (it == links_.end() || it->second != share) return;  // known to be down already
    links_.erase(it);
    if (former_.size() < limits::kPeers || former_.count(share->peer) > 0)
      former_[share->peer] += {share->sent, share->received};
    events_.info("net.link_down", {{"peer", share->peer.short_name()}, {"why", why.message}});
    if (handler != nullptr) handler->on_link_down(share->peer, why);
  }
  void frame(const std::shared_ptr<LinkShare>& share, env::Frame frame) {
    if (!share->closing && handler != nullptr) handler->on_frame(share->peer, std::move(frame));
  }
  void own_frame(env::Frame frame) {
    if (handler != nullptr) handler->on_frame(self_, std::move(frame));
  }
  void dial_failed(const env::Address& address, const Error& why) {
    if (handler != nullptr) handler->on_dial_failed(address, why);
  }
  env::Traffic traffic(PeerId peer) const {
    const auto former = former_.find(peer);
    env::Traffic sum = former == former_.end() ? env::Traffic{} : former->second;
    if (const auto it = links_.find(peer); it != links_.end())
      sum += {it->second->sent, it->second->received};
    return sum;
  }
  // Null when there is none, or it is being closed.
  std::shared_ptr<LinkShare> find(PeerId peer) const {
    const auto it = links_.find(peer);
    return it == links_.end() || it->second->closing ? nullptr : it->second;
  }

 private:
  const PeerId self_;
  Events& events_;
  std::map<PeerId, std::shared_ptr<LinkShare>> links_;
  std::map<PeerId, env::Traffic> former_;  // of links that have ended
};

// Listening sockets and all connections. Whoever calls a member holds the mutex: handlers of the
// I/O thread take it, and the control loop may, to write a frame without waking that thread.
class Hub final : public TlsLink::Host, public std::enable_shared_from_this<Hub> {
 public:
  Hub(asio::io_context& io, std::shared_ptr<ssl_ctx_st> context, PeerId self,
      std::shared_ptr<Mailbox> mail, std::shared_ptr<Desk> desk, Events& events)
      : io_(io),
        context_(std::move(context)),
        self_(self),
        mail_(std::move(mail)),
        desk_(std::move(desk)),
        events_(events),
        accept_pause_(io),
        refilled_(std::chrono::steady_clock::now()) {}

  PeerId self() const override { return self_; }
  std::mutex& mutex() override { return mutex_; }
  Result<void> choose(TlsLink& link) override;
  void on_up(TlsLink& link) override;
  void on_frame(TlsLink& link, env::Frame frame) override;
  void on_end(TlsLink& link, const Error& why) override;

  void dial(const env::Address& address);
  void listen(int descriptor, bool v6);
  void take_outbox(const std::shared_ptr<LinkShare>& share);
  void close(const std::shared_ptr<LinkShare>& share, const Error& why);
  void shut_down();

 private:
  struct Door {
    Door(asio::io_context& io, bool is_v6) : acceptor(io), v6(is_v6) {}
    tcp::acceptor acceptor;
    bool v6;
    bool waiting = false;  // an accept is under way
  };
  struct Connection {
    std::shared_ptr<TlsLink> link;
    std::string host;       // of an inbound handshake under way, else ""
    bool dialling = false;  // the dial has no outcome yet
    bool up = false;        // in up_
  };
  void accept();
  void accept(const std::shared_ptr<Door>& door);
  void greet(tcp::socket socket, bool v6);
  void pause_accepting(std::chrono::milliseconds delay);
  void refill();
  TlsLink* add(std::string host);
  void settle(Connection& connection);
  Error full() const;
  TlsLink* find(const std::shared_ptr<LinkShare>& share);

  std::mutex mutex_;
  asio::io_context& io_;
  const std::shared_ptr<ssl_ctx_st> context_;
  const PeerId self_;
  const std::shared_ptr<Mailbox> mail_;
  const std::shared_ptr<Desk> desk_;  // touched by mail only
  Events& events_;
  bool down_ = false;

  std::unordered_map<TlsLink*, Connection> connections_;
  std::map<PeerId, TlsLink*> up_;
  std::size_t dials_ = 0;  // under way

  std::vector<std::shared_ptr<Door>> doors_;
  std::map<std::string, std::size_t> greeted_;  // inbound handshakes by host
  std::size_t greeted_total_ = 0;
  asio::steady_timer accept_pause_;
  double accept_tokens_ = static_cast<double>(limits::kPendingHandshakes);
  std::chrono::steady_clock::time_point refilled_;
};

// --- connections ---------------------------------------------------------------------------------

Result<void> Hub::choose(TlsLink& link) {
  const std::string name = link.peer().short_name();
  if (up_.count(link.peer()) > 0)
    return Error(Code::kCancelled, fmt::format("{} and {} are already linked by another connection",
                                               self_.short_name(), name));
  if (up_.size() >= limits::kPeers) return full();
  return {};
}

Error Hub::full() const {
  return Error(Code::kResourceExhausted,
               fmt::format("{} has {} links already", self_.short_name(), up_.size()), true);
}

void Hub::on_up(TlsLink& link) {
  const auto former = up_.find(link.peer());
  if (former == up_.end() && up_.size() >= limits::kPeers)
    return link.abort(full());  // chosen by the peer, who cannot know
  Connection& connection = connections_.at(&link);
  settle(connection);
  // The peer decides and has chosen anew: it has given the former connection up.
  if (former != up_.end())
    former->second->abort(Error(Code::kUnavailable,
                                link.peer().short_name() + " has replaced the link by a new one",
                                true));
  connection.up = true;
  up_[link.peer()] = &link;
  mail_->push([desk = desk_, share = link.share()] { desk->link_up(share); });
}

void Hub::on_frame(TlsLink& link, env::Frame frame) {
  auto owned = std::make_shared<env::Frame>(std::move(frame));  // std::function must be copyable
  mail_->push([desk = desk_, share = link.share(), owned, hub = weak_from_this(), io = &io_] {
    const std::size_t size = owned->header.size() + owned->payload.size();
    desk->frame(share, std::move(*owned));
    share->inbox_bytes -= size;
    share->inbox_frames -= 1;
    share->first_unhandled = false;
    if (share->has_room() && share->paused.exchange(false))
      asio::post(*io, [hub, share] {
        const auto alive = hub.lock();
        if (!alive) return;
        std::lock_guard lock(alive->mutex_);
        if (TlsLink* paused = alive->find(share)) paused->resume_reading();
      });
  });
}

void Hub::on_end(TlsLink& link, const Error& why) {
  const auto it = connections_.find(&link);
  if (it == connections_.end()) return;
  Connection connection = std::move(it->second);
  connections_.erase(it);
  if (connection.up) {
    up_.erase(link.peer());
    mail_->push([desk = desk_, share = link.share(), why] { desk->link_down(share, why); });
  } else if (connection.dialling) {
    mail_->push([desk = desk_, address = link.remote(), why] { desk->dial_failed(address, why); });
  } else if (!connection.host.empty() && !down_) {
    events_.debug("net.refused", {{"remote", link.remote().to_string()}, {"why", why.message}});
  }
  settle(connection);
}

TlsLink* Hub::add(std::string host) {
  std::shared_ptr<TlsLink> link = TlsLink::create(io_, context_.get(), shared_from_this());
  TlsLink* raw = link.get();
  const bool inbound = !host.empty();
  connections_[raw] = Connection{std::move(link), std::move(host), !inbound, false};
  return raw;
}

// The connection is no longer a dial or a handshake under way.
void Hub::settle(Connection& connection) {
  if (connection.dialling) --dials_;
  connection.dialling = false;
  if (connection.host.empty()) return;
  const auto it = greeted_.find(connection.host);
  if (--it->second == 0) greeted_.erase(it);
  --greeted_total_;
  connection.host.clear();
  accept();
}

TlsLink* Hub::find(const std::shared_ptr<LinkShare>& share) {
  const auto it = up_.find(share->peer);
  return it == up_.end() || it->second->share() != share ? nullptr : it->second;
}

void Hub::dial(const env::Address& address) {
  if (down_) return;
  if (dials_ >= limits::kPeers) {
    const Error why(Code::kResourceExhausted, fmt::format("{} dials are under way already", dials_),
                    true);
    mail_->push([desk = desk_, address, why] { desk->dial_failed(address, why); });
    return;
  }
  ++dials_;
  add("")->dial(address);
}

void Hub::take_outbox(const std::shared_ptr<LinkShare>& share) {
  if (TlsLink* link = find(share)) link->take_outbox();
}

void Hub::close(const std::shared_ptr<LinkShare>& share, const Error& why) {
  TlsLink* link = find(share);
  if (link == nullptr) return;
  up_.erase(share->peer);  // a new connection need not wait for the farewell
  connections_.at(link).up = false;
  link->close_gracefully(why.message);
}

void Hub::shut_down() {
  down_ = true;
  ErrorCode ignored;
  for (const auto& door : doors_) door->acceptor.close(ignored);
  doors_.clear();
  accept_pause_.cancel();
  std::vector<std::shared_ptr<TlsLink>> links;
  for (const auto& [raw, connection] : connections_) links.push_back(connection.link);
  for (const auto& link : links) link->abort(Error(Code::kCancelled, "this node is stopping"));
}

// --- accepting -----------------------------------------------------------------------------------
// Before a peer has proved a key it costs us a socket and a TLS state: their number, the number of
// one host's and the rate of new ones are bounded. Over the first and last, callers wait in the
// kernel's backlog; one host's surplus is turned away.

void Hub::listen(int descriptor, bool v6) {
  auto door = std::make_shared<Door>(io_, v6);
  ErrorCode code;
  door->acceptor.assign(v6 ? tcp::v6() : tcp::v4(), descriptor, code);
  if (code || down_) {
    ::close(descriptor);
    return;
  }
  doors_.push_back(std::move(door));
  accept();
}

void Hub::accept() {
  for (const auto& door : doors_) accept(door);
}

void Hub::refill() {
  const auto now = std::chrono::steady_clock::now();
  const double elapsed = std::chrono::duration<double>(now - refilled_).count();
  refilled_ = now;
  accept_tokens_ = std::min(static_cast<double>(limits::kPendingHandshakes),
                            accept_tokens_ + elapsed * limits::kAcceptsPerSecond);
}

void Hub::accept(const std::shared_ptr<Door>& door) {
  if (down_ || door->waiting || greeted_total_ >= limits::kPendingHandshakes) return;
  refill();
  if (accept_tokens_ < 1) return pause_accepting(std::chrono::milliseconds(10));
  door->waiting = true;
  door->acceptor.async_accept(
      [self = shared_from_this(), door](const ErrorCode& code, tcp::socket socket) {
        std::lock_guard lock(self->mutex_);
        door->waiting = false;
        if (self->down_) return;
        // Out of descriptors, most likely: waiting is all that helps.
        if (code) return self->pause_accepting(std::chrono::milliseconds(100));
        self->accept_tokens_ -= 1;
        self->greet(std::move(socket), door->v6);
        self->accept(door);
      });
}

void Hub::pause_accepting(std::chrono::milliseconds delay) {
  accept_pause_.expires_after(delay);
  accept_pause_.async_wait([self = shared_from_this()](const ErrorCode& code) {
    std::lock_guard lock(self->mutex_);
    if (!code) self->accept();
  });
}

void Hub::greet(tcp::socket socket, bool v6) {
  ErrorCode code;
  const tcp::endpoint from = socket.remote_endpoint(code);
  if (code) return;  // gone already
  asio::ip::address address = from.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  const env::Address remote{address.to_string(), from.port()};
  if (greeted_.count(remote.host) > 0 &&
      greeted_[remote.host] >= limits::kPendingHandshakesPerHost) {
    events_.debug("net.refused", {{"remote", remote.to_string()}, {"why", "too many at once"}});
    return;
  }
  const int descriptor = socket.release(code);
  if (code) return;
  ++greeted_[remote.host];
  ++greeted_total_;
  add(remote.host)->accept(descriptor, v6, remote);
}

}  // namespace

// --- the control loop's side ---------------------------------------------------------------------

struct TlsTransport::Impl {
  IoThread& io;
  PeerId self;
  std::shared_ptr<Mailbox> mail;
  std::shared_ptr<Desk> desk;
  std::shared_ptr<Hub> hub;
  std::shared_ptr<std::atomic<std::size_t>> own_bytes;  // sent to self, not yet handled

  template <typename Call>
  void on_io(Call call) {
    asio::post(io.context(), [hub = hub, call = std::move(call)] {
      std::lock_guard lock(hub->mutex());
      call(*hub);
    });
  }
  // Writes what waits for this link here and now, unless the I/O thread is busy with links: then
  // it will see to it.
  void write_now(const std::shared_ptr<LinkShare>& share) {
    if (std::unique_lock lock(hub->mutex(), std::try_to_lock); lock.owns_lock())
      hub->take_outbox(share);
    else
      on_io([share](Hub& busy) { busy.take_outbox(share); });
  }
};

TlsTransport::TlsTransport(IoThread& io, env::Loop& loop, Events& events,
                           const NodeIdentity& identity) {
  const auto mail = std::make_shared<Mailbox>(loop, io.context());
  const auto desk = std::make_shared<Desk>(identity.id(), events);
  const auto hub = std::make_shared<Hub>(io.context(), make_tls_context(identity), identity.id(),
                                         mail, desk, events);
  impl_.reset(
      new Impl{io, identity.id(), mail, desk, hub, std::make_shared<std::atomic<std::size_t>>(0)});
}

TlsTransport::~TlsTransport() {
  impl_->mail->close();
  impl_->desk->handler = nullptr;
  if (impl_->io.stopped() || impl_->io.on_thread()) {
    std::lock_guard lock(impl_->hub->mutex());
    impl_->hub->shut_down();
    return;
  }
  auto done = std::make_shared<std::promise<void>>();
  std::future<void> finished = done->get_future();
  impl_->on_io([done](Hub& hub) {
    hub.shut_down();
    done->set_value();
  });
  // The I/O thread may wait for room in the very loop that runs this: then it finishes later.
  finished.wait_for(kShutdownPatience);
}

Result<std::uint16_t> TlsTransport::listen(const std::string& host, std::uint16_t first_port,
                                           int tries) {
  MESH_ASSIGN_OR_RETURN(ListeningSocket socket, bind_next_free(host, first_port, tries));
  const std::uint16_t port = socket.port();
  impl_->on_io(
      [descriptor = socket.release(), v6 = socket.v6()](Hub& hub) { hub.listen(descriptor, v6); });
  return port;
}

PeerId TlsTransport::self() const {
  return impl_->self;
}

void TlsTransport::set_handler(env::TransportHandler* handler) {
  impl_->desk->handler = handler;
}

void TlsTransport::dial(const env::Address& address) {
  impl_->on_io([address](Hub& hub) { hub.dial(address); });
}

Result<void> TlsTransport::send(PeerId to, env::Frame frame) {
  MESH_RETURN_IF_ERROR(wire::check_limits(frame));
  if (frame.type == kTransportFrame)
    return Error(Code::kInvalidArgument, "frame type 0 belongs to the transport");
  const bool own = to == impl_->self;
  const std::shared_ptr<LinkShare> share = own ? nullptr : impl_->desk->find(to);
  if (!own && !share)
    return Error(Code::kNotFound, fmt::format("no link to {}", to.short_name()), true);
  std::atomic<std::size_t>& queued = own ? *impl_->own_bytes : share->queued_bytes;
  const std::size_t cost = cost_of(frame);
  if (queued + cost > limits::kLinkQueueBytes)
    return Error(
        Code::kResourceExhausted,
        fmt::format("{} bytes already wait to be sent to {}", queued.load(), to.short_name()),
        true);
  queued += cost;
  // What is small is written sooner than the I/O thread wakes; what is large it encrypts while the
  // caller goes on.
  const bool now = cost <= limits::kWriteBatchBytes && frame.priority != env::Priority::kBulk;
  if (own) {
    auto owned = std::make_shared<env::Frame>(std::move(frame));
    impl_->mail->push_own([desk = impl_->desk, owned, bytes = impl_->own_bytes, cost] {
      *bytes -= cost;
      desk->own_frame(std::move(*owned));
    });
    return {};
  }
  {
    std::lock_guard lock(share->mutex);
    share->outbox.push_back(std::move(frame));
    if (share->wake_posted) return {};
    share->wake_posted = true;
  }
  if (now)
    impl_->write_now(share);
  else
    impl_->on_io([share](Hub& hub) { hub.take_outbox(share); });
  return {};
}

env::Traffic TlsTransport::traffic(PeerId peer) const {
  return impl_->desk->traffic(peer);
}

void TlsTransport::close(PeerId peer, const Error& why) {
  const std::shared_ptr<LinkShare> share = impl_->desk->find(peer);
  if (!share) return;
  share->closing = true;
  impl_->mail->push_own([desk = impl_->desk, share, why] { desk->link_down(share, why); });
  impl_->on_io([share, why](Hub& hub) { hub.close(share, why); });
}

}  // namespace mesh::net
