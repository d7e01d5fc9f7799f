#include "net/tls_link.h"

#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <deque>

#include "base/check.h"
#include "base/limits.h"
#include "net/tls_records.h"
#include "wire/frame.h"

namespace mesh::net {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

constexpr std::size_t kReadBytes = 64u << 10;
constexpr std::size_t kRecordBytes = 16u << 10;      // of plaintext in one TLS record
constexpr std::size_t kDirectReadBytes = 16u << 10;  // from here on read into the frame itself

std::size_t size_of(const env::Frame& frame) {
  return frame.header.size() + frame.payload.size();
}

constexpr const char* kClosedByPeer = "the other side closed the connection";

// Why an operation on a socket failed.
std::string reason(const ErrorCode& code) {
  if (code == asio::error::eof) return kClosedByPeer;
  std::string text = code.message();
  if (!text.empty() && text.front() >= 'A' && text.front() <= 'Z')
    text.front() = static_cast<char>(text.front() + 32);
  return text;
}

// A peer's sentence, fit to be printed.
std::string printable(std::string_view text) {
  std::string out(text.substr(0, limits::kCloseReasonBytes));
  for (char& c : out)
    if (c < 0x20 || c > 0x7E) c = '?';
  return out;
}

// SHA-256 of the key in the peer's leaf.
std::optional<PeerId> peer_of(SSL* ssl) {
  const std::unique_ptr<X509, decltype(&X509_free)> leaf(SSL_get1_peer_certificate(ssl), X509_free);
  if (!leaf) return std::nullopt;
  unsigned char* der = nullptr;
  const int size = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(leaf.get()), &der);
  if (size <= 0) return std::nullopt;
  const std::string_view bytes(reinterpret_cast<const char*>(der), static_cast<std::size_t>(size));
  const bool plain = raw_public_key(bytes).ok();
  const PeerId id = peer_id_of(bytes);
  OPENSSL_free(der);
  return plain ? std::optional(id) : std::nullopt;
}

bool speaks_mesh(SSL* ssl) {
  const unsigned char* protocol = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl, &protocol, &size);
  return std::string_view(reinterpret_cast<const char*>(protocol), size) == "mesh/1";
}

class Link final : public TlsLink, public std::enable_shared_from_this<Link> {
 public:
  Link(asio::io_context& io, ssl_ctx_st* context, std::shared_ptr<Host> host)
      : host_(std::move(host)), socket_(io), tls_(context), resolver_(io), deadline_(io) {}

  void dial(const env::Address& address) override;
  void accept(int descriptor, bool v6, const env::Address& remote) override;
  void take_outbox() override;
  void resume_reading() override;
  void close_gracefully(std::string reason) override;
  void abort(const Error& why) override { end(why); }

  bool up() const override { return phase_ == Phase::kUp; }
  bool outbound() const override { return outbound_; }
  const env::Address& remote() const override { return remote_; }
  PeerId peer() const override { return share_ ? share_->peer : PeerId{}; }
  std::shared_ptr<LinkShare> share() const override { return share_; }

 private:
  // kChosen: TLS is done, the peer with the smaller id has not confirmed yet. kClosing: writes the
  // rest of the queue and discards what arrives.
  enum class Phase { kConnecting, kHandshaking, kChosen, kUp, kClosing, kEnded };

  // A handler of this link's operations: takes the host's mutex and keeps the link alive.
  template <typename Handler>
  auto guarded(Handler handler) {
    return [self = shared_from_this(), handler = std::move(handler)](const ErrorCode& code,
                                                                     const auto&... result) {
      std::lock_guard lock(self->host_->mutex());
      handler(code, result...);
    };
  }

  void connect(const tcp::resolver::results_type& endpoints);
  void handshake();
  void shake();
  void on_shaken(TlsRecords::Outcome outcome);
  void on_handshake();
  void handshake_failed(const std::string& why);
  void enter(const PeerId& peer);
  void become_up();
  void end_of_stream(const std::string& why);
  void end(const Error& why);
  void set_deadline(Duration delay, std::string what);
  Error unreachable(const std::string& why) const;
  Error lost(const std::string& why) const;

  void read();
  bool decrypt();
  void receive();
  void consume();
  bool start_frame();
  void finish_frame();
  void on_signal(const env::Frame& frame);
  void deliver(env::Frame frame);

  void push_signal(Signal signal, std::string_view text);
  void write();
  void transmit();
  std::span<const std::byte> next_piece();
  void gather();
  void on_written(const ErrorCode& code);

  const std::shared_ptr<Host> host_;
  tcp::socket socket_;
  TlsRecords tls_;
  tcp::resolver resolver_;
  asio::steady_timer deadline_;
  std::uint64_t deadline_round_ = 0;  // an expiry that was already queued must not count
  Phase phase_ = Phase::kConnecting;
  bool outbound_ = false;
  env::Address remote_;
  std::shared_ptr<LinkShare> share_;
  std::optional<Error> verdict_;  // why we refused; what follows does not matter

  // Reading.
  bool reading_ = false;
  bool first_frame_ = true;
  std::vector<std::byte> in_ = std::vector<std::byte>(kReadBytes);
  std::size_t in_begin_ = 0, in_end_ = 0;
  std::optional<env::Frame> frame_;  // being read
  std::size_t frame_filled_ = 0;     // bytes of its header and payload that are in place

  // Writing. Two classes only: what computes travels in the order sent, since a decode frame
  // overtaking a prefill frame of its sequence would reach a stage before the rows it attends to;
  // bulk (weights) has no order against it and goes when nothing else waits.
  std::deque<env::Frame> urgent_, bulk_;
  bool writing_ = false;
  std::vector<std::byte> out_;
  std::size_t out_at_ = 0;           // encrypted up to here
  std::vector<std::byte> sending_;   // ciphertext under way
  std::size_t sent_ = 0;             // of it
  std::optional<env::Frame> large_;  // its payload from large_at_ on follows out_
  std::size_t large_at_ = 0;
  std::size_t written_bytes_ = 0;  // of the queue, by the write under way
  bool sent_all_ = false;          // kClosing: our side of the stream is shut
};

void Link::set_deadline(Duration delay, std::string what) {
  const std::uint64_t round = ++deadline_round_;
  deadline_.expires_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(delay));
  deadline_.async_wait(guarded([this, round, what = std::move(what)](const ErrorCode& code) {
    if (!code && round == deadline_round_) end(Error(Code::kDeadlineExceeded, what, true));
  }));
}

Error Link::unreachable(const std::string& why) const {
  return Error(Code::kUnavailable, fmt::format("could not reach {}: {}", remote_.to_string(), why),
               true);
}

Error Link::lost(const std::string& why) const {
  return Error(Code::kUnavailable,
               fmt::format("the link to {} ({}) was lost: {}", peer().short_name(),
                           remote_.to_string(), why),
               true);
}

// --- from nothing to a link ----------------------------------------------------------------------

void Link::dial(const env::Address& address) {
  outbound_ = true;
  remote_ = address;
  set_deadline(limits::kDialDeadline,
               fmt::format("could not reach {}: no answer within {} s", address.to_string(),
                           to_seconds(limits::kDialDeadline)));
  ErrorCode not_numeric;
  const asio::ip::address numeric = asio::ip::make_address(address.host, not_numeric);
  if (!not_numeric) {
    const tcp::endpoint endpoint(numeric, address.port);
    return connect(tcp::resolver::results_type::create(endpoint, address.host, ""));
  }
  resolver_.async_resolve(
      address.host, std::to_string(address.port), tcp::resolver::numeric_service,
      guarded([this](const ErrorCode& code, const tcp::resolver::results_type& found) {
        if (phase_ == Phase::kEnded) return;
        if (code) return end(unreachable(reason(code)));
        connect(found);
      }));
}

void Link::connect(const tcp::resolver::results_type& endpoints) {
  asio::async_connect(socket_, endpoints,
                      guarded([this](const ErrorCode& code, const tcp::endpoint&) {
                        if (phase_ == Phase::kEnded) return;
                        if (code) return end(unreachable(reason(code)));
                        handshake();
                      }));
}

void Link::accept(int descriptor, bool v6, const env::Address& remote) {
  remote_ = remote;
  ErrorCode code;
  socket_.assign(v6 ? tcp::v6() : tcp::v4(), descriptor, code);
  if (code) return end(unreachable(reason(code)));
  handshake();
}

void Link::handshake() {
  phase_ = Phase::kHandshaking;
  ErrorCode ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  set_deadline(limits::kHandshakeDeadline,
               fmt::format("TLS handshake with {} did not end within {} s; is that a toolkit-mesh "
                           "node of this version?",
                           remote_.to_string(), to_seconds(limits::kHandshakeDeadline)));
  socket_.non_blocking(true, ignored);
  tls_.start(outbound_);
  shake();
}

// One turn of the handshake: what it has to say goes out before anything else is done.
void Link::shake() {
  const TlsRecords::Outcome outcome = tls_.handshake();
  if (tls_.outgoing().empty()) return on_shaken(outcome);
  asio::async_write(socket_, asio::buffer(tls_.outgoing()),
                    guarded([this, outcome](const ErrorCode& code, std::size_t) {
                      if (phase_ == Phase::kEnded) return;
                      tls_.outgoing().clear();
                      if (code && outcome != TlsRecords::Outcome::kFailed)
                        return handshake_failed(reason(code));
                      on_shaken(outcome);
                    }));
}

void Link::on_shaken(TlsRecords::Outcome outcome) {
  if (outcome == TlsRecords::Outcome::kDone) return on_handshake();
  if (outcome == TlsRecords::Outcome::kFailed) return handshake_failed(tls_.why());
  const std::span<std::byte> room = tls_.room();
  socket_.async_read_some(asio::buffer(room.data(), room.size()),
                          guarded([this](const ErrorCode& code, std::size_t count) {
                            if (phase_ == Phase::kEnded) return;
                            if (code) return handshake_failed(reason(code));
                            tls_.received(count);
                            shake();
                          }));
}

void Link::handshake_failed(const std::string& why) {
  end(Error(Code::kUnavailable,
            fmt::format("TLS handshake with {} failed: {}; is that a toolkit-mesh node of this "
                        "version?",
                        remote_.to_string(), why)));
}

void Link::on_handshake() {
  if (!speaks_mesh(tls_.ssl())) return handshake_failed("it does not speak mesh/1");
  const std::optional<PeerId> peer = peer_of(tls_.ssl());
  if (!peer) return handshake_failed("it shows no node key");
  if (*peer == host_->self())
    return end(Error(Code::kInvalidArgument, remote_.to_string() + " is this node itself"));
  enter(*peer);
}

// Both ends may dial at once. The end with the smaller id decides which connection is the link and
// says so in the first frame, so the ends never disagree and no frame is lost in a change of mind.
void Link::enter(const PeerId& peer) {
  share_ = std::make_shared<LinkShare>(peer, remote_, outbound_);
  phase_ = Phase::kChosen;
  if (host_->self() < peer) {
    const Result<void> chosen = host_->choose(*this);
    push_signal(chosen.ok() ? Signal::kConfirm : Signal::kDuplicate,
                chosen.ok() ? "" : chosen.error().message);
    if (!chosen.ok()) {
      phase_ = Phase::kClosing;
      verdict_ = chosen.error();
      set_deadline(limits::kCloseDeadline, chosen.error().message);
    } else {
      become_up();
    }
    write();
  }
  read();
}

void Link::become_up() {
  phase_ = Phase::kUp;
  ++deadline_round_;
  deadline_.cancel();
  host_->on_up(*this);
}

// --- to the end ----------------------------------------------------------------------------------

void Link::close_gracefully(std::string reason) {
  if (phase_ != Phase::kUp) return end(Error(Code::kCancelled, std::move(reason)));
  phase_ = Phase::kClosing;
  push_signal(Signal::kBye, reason);
  set_deadline(limits::kCloseDeadline, std::move(reason));
  write();
  resume_reading();  // a paused link must see the end of the stream
}

void Link::end_of_stream(const std::string& why) {
  if (phase_ == Phase::kChosen) return handshake_failed(why);
  end(lost(why));
}

void Link::end(const Error& why) {
  if (phase_ == Phase::kEnded) return;
  const auto self = shared_from_this();  // the host drops its reference
  ErrorCode ignored;
  // What a peer did not take in time shall not linger in the kernel.
  if (phase_ == Phase::kClosing && !sent_all_)
    socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  else
    socket_.shutdown(tcp::socket::shutdown_both, ignored);
  phase_ = Phase::kEnded;
  ++deadline_round_;
  deadline_.cancel();
  resolver_.cancel();
  socket_.close(ignored);
  host_->on_end(*this, verdict_ ? *verdict_ : why);
}

// --- reading -------------------------------------------------------------------------------------

// Decrypts and consumes what has come, then waits for more.
void Link::read() {
  while (!reading_ && phase_ != Phase::kEnded && (!share_->paused || phase_ == Phase::kClosing)) {
    if (!decrypt()) break;
    consume();
  }
  // Reading gives answers of TLS itself, a few bytes each.
  if (phase_ == Phase::kEnded || tls_.outgoing().empty()) return;
  if (writing_ && tls_.outgoing().size() > limits::kWriteBatchBytes)
    return end(lost("it asks for answers that it does not read"));
  write();
}

// False when there is nothing more to consume now.
bool Link::decrypt() {
  std::span<std::byte> room;
  const bool direct = frame_ && frame_filled_ >= frame_->header.size() &&
                      size_of(*frame_) - frame_filled_ >= kDirectReadBytes;
  if (direct) {
    room = frame_->payload.span().subspan(frame_filled_ - frame_->header.size());
  } else {
    std::copy(in_.begin() + static_cast<std::ptrdiff_t>(in_begin_),
              in_.begin() + static_cast<std::ptrdiff_t>(in_end_), in_.begin());
    in_end_ -= in_begin_;
    in_begin_ = 0;
    room = std::span(in_).subspan(in_end_);
  }
  std::size_t count = 0;
  switch (tls_.read(room, count)) {
    case TlsRecords::Outcome::kDone:
      (direct ? frame_filled_ : in_end_) += count;
      return true;
    case TlsRecords::Outcome::kWantsInput:
      receive();
      return false;
    case TlsRecords::Outcome::kFailed:
      break;
  }
  ErrorCode ignored;  // the alert, if it goes out at once
  if (!writing_) socket_.write_some(asio::buffer(tls_.outgoing()), ignored);
  end_of_stream(tls_.why().empty() ? kClosedByPeer : tls_.why());
  return false;
}

void Link::receive() {
  reading_ = true;
  const std::span<std::byte> room = tls_.room();
  socket_.async_read_some(asio::buffer(room.data(), room.size()),
                          guarded([this](const ErrorCode& code, std::size_t count) {
                            reading_ = false;
                            if (phase_ == Phase::kEnded) return;
                            if (code) return end_of_stream(reason(code));
                            share_->received += count;
                            tls_.received(count);
                            read();
                          }));
}

void Link::resume_reading() {
  if (phase_ == Phase::kEnded || !share_ || reading_) return;
  consume();
  read();
}

// Takes whole frames out of the read buffer as long as there are any and the inbox has room.
void Link::consume() {
  if (phase_ == Phase::kClosing) {
    in_begin_ = in_end_ = 0;
    frame_.reset();
    return;
  }
  while (phase_ == Phase::kChosen || phase_ == Phase::kUp) {
    if (share_->paused) return;
    if (!frame_ && !start_frame()) break;
    std::size_t available = in_end_ - in_begin_;
    const auto take = [&](Buffer& part, std::size_t offset) {
      if (offset >= part.size()) return;
      const std::size_t count = std::min(available, part.size() - offset);
      std::copy_n(in_.data() + in_begin_, count, part.data() + offset);
      in_begin_ += count;
      frame_filled_ += count;
      available -= count;
    };
    take(frame_->header, frame_filled_);
    if (frame_filled_ >= frame_->header.size())
      take(frame_->payload, frame_filled_ - frame_->header.size());
    if (frame_filled_ < size_of(*frame_)) break;
    finish_frame();
  }
}

// False when more bytes are needed, or the link has ended. What the first frames may announce is
// small: nobody has said yet whether this peer is welcome. (Storage is not touched before bytes
// arrive, so an announced size costs the sender as much as it costs us.)
bool Link::start_frame() {
  if (in_end_ - in_begin_ < wire::kFramePrefixBytes) return false;
  Result<env::Frame> frame =
      wire::decode_prefix(std::span(in_).subspan(in_begin_, wire::kFramePrefixBytes));
  if (!frame.ok()) {
    end(Error(Code::kCorrupt,
              fmt::format("{} ({}) sent bytes that are no frame: {}", peer().short_name(),
                          remote_.to_string(), frame.error().message)));
    return false;
  }
  const bool signal = frame->type == kTransportFrame;
  const bool allowed =
      signal ? frame->payload.empty() && frame->header.size() <= limits::kCloseReasonBytes
             : phase_ == Phase::kUp &&
                   (!first_frame_ || frame->payload.size() <= limits::kFirstFrameBytes);
  if (!allowed) {
    end(Error(Code::kCorrupt,
              fmt::format("{} ({}) sent a frame of type {} and {} + {} bytes before it may",
                          peer().short_name(), remote_.to_string(), frame->type,
                          frame->header.size(), frame->payload.size())));
    return false;
  }
  in_begin_ += wire::kFramePrefixBytes;
  frame_ = std::move(frame).value();
  frame_filled_ = 0;
  return true;
}

void Link::finish_frame() {
  env::Frame frame = std::move(*frame_);
  frame_.reset();
  if (frame.type == kTransportFrame)
    on_signal(frame);
  else
    deliver(std::move(frame));
}

void Link::on_signal(const env::Frame& frame) {
  const std::string text = printable(frame.header.text());
  const bool theirs = share_->peer < host_->self();  // theirs to decide
  switch (static_cast<Signal>(frame.stream)) {
    case Signal::kConfirm:
      if (phase_ == Phase::kChosen && theirs) return become_up();
      break;
    case Signal::kDuplicate:
      if (phase_ == Phase::kChosen && theirs)
        return end(
            Error(Code::kCancelled, fmt::format("{} ({}) refused the connection: {}",
                                                peer().short_name(), remote_.to_string(), text)));
      break;
    case Signal::kBye:
      return end(Error(Code::kUnavailable,
                       fmt::format("{} ({}) closed the link: {}", peer().short_name(),
                                   remote_.to_string(), text),
                       true));
  }
  end(Error(Code::kCorrupt, fmt::format("{} ({}) sent transport frame {} out of turn",
                                        peer().short_name(), remote_.to_string(), frame.stream)));
}

void Link::deliver(env::Frame frame) {
  LinkShare& share = *share_;
  share.inbox_bytes += size_of(frame);
  share.inbox_frames += 1;
  if (first_frame_) share.first_unhandled = true;
  first_frame_ = false;
  host_->on_frame(*this, std::move(frame));
  if (share.has_room()) return;
  // The control loop may have made room since: then whoever takes the flag back goes on.
  share.paused = true;
  if (share.has_room()) share.paused = false;
}

// --- writing -------------------------------------------------------------------------------------

void Link::take_outbox() {
  std::vector<env::Frame> frames;
  {
    std::lock_guard lock(share_->mutex);
    frames.swap(share_->outbox);
    share_->wake_posted = false;
  }
  if (phase_ != Phase::kUp) return;
  for (env::Frame& frame : frames)
    (frame.priority == env::Priority::kBulk ? bulk_ : urgent_).push_back(std::move(frame));
  write();
}

void Link::push_signal(Signal signal, std::string_view text) {
  env::Frame frame;
  frame.type = kTransportFrame;
  frame.stream = static_cast<std::uint64_t>(signal);
  frame.header = Buffer::copy_of(text.substr(0, limits::kCloseReasonBytes));
  // A farewell goes behind everything.
  (signal == Signal::kBye && !bulk_.empty() ? bulk_ : urgent_).push_back(std::move(frame));
}

void Link::write() {
  if (writing_ || phase_ == Phase::kEnded) return;
  gather();
  if (out_.empty() && tls_.outgoing().empty()) {
    if (phase_ == Phase::kClosing && !sent_all_) {
      sent_all_ = true;
      ErrorCode ignored;
      socket_.shutdown(tcp::socket::shutdown_send, ignored);
    }
    return;
  }
  writing_ = true;
  transmit();
}

// The socket mostly has room at once, and then no turn of the I/O thread is needed: the receiver
// decrypts a record while the next one is encrypted. A turn writes a batch, so that other links
// get theirs.
void Link::transmit() {
  for (std::size_t written = 0; written < limits::kWriteBatchBytes;) {
    if (sent_ == sending_.size()) {
      if (tls_.write(next_piece()) == TlsRecords::Outcome::kFailed) return end(lost(tls_.why()));
      sending_.clear();
      sending_.swap(tls_.outgoing());  // reading may add to the latter meanwhile
      sent_ = 0;
    }
    if (sending_.empty() && urgent_.empty() && bulk_.empty()) return on_written({});
    if (sending_.empty()) break;
    ErrorCode code;
    const std::size_t count =
        socket_.write_some(asio::buffer(sending_.data() + sent_, sending_.size() - sent_), code);
    if (code && code != asio::error::would_block) return on_written(code);
    sent_ += count;
    written += count;
    share_->sent += count;
    if (code) break;
  }
  socket_.async_wait(tcp::socket::wait_write, guarded([this](const ErrorCode& code) {
                       if (code || phase_ == Phase::kEnded) return on_written(code);
                       const bool rest = sent_ < sending_.size() || out_at_ < out_.size() || large_;
                       rest ? transmit() : on_written({});
                     }));
}

// The bytes of the next record: of out_, then of the large payload.
std::span<const std::byte> Link::next_piece() {
  const auto take = [](std::span<const std::byte> bytes, std::size_t& at) {
    const std::size_t count = std::min(bytes.size() - at, kRecordBytes);
    at += count;
    return bytes.subspan(at - count, count);
  };
  if (out_at_ < out_.size() || !large_) return take(out_, out_at_);
  if (large_at_ == large_->payload.size()) large_.reset();
  return large_ ? take(large_->payload.span(), large_at_) : std::span<const std::byte>{};
}

// Fills out_ with as many small frames as fit; one that does not fit starts in it and goes on from
// its own payload.
void Link::gather() {
  out_.clear();
  out_at_ = 0;
  out_.reserve(limits::kWriteBatchBytes + limits::kFrameHeaderBytes + wire::kFramePrefixBytes);
  while (out_.size() < limits::kWriteBatchBytes) {
    std::deque<env::Frame>& queue = urgent_.empty() ? bulk_ : urgent_;
    if (queue.empty()) return;
    env::Frame frame = std::move(queue.front());
    queue.pop_front();
    if (frame.type != kTransportFrame) written_bytes_ += size_of(frame) + kFrameOverheadBytes;
    const std::size_t at = out_.size();
    out_.resize(at + wire::kFramePrefixBytes);
    wire::encode_prefix(frame, std::span(out_).subspan(at));
    const auto append = [this](std::span<const std::byte> part) {
      out_.insert(out_.end(), part.begin(), part.end());
    };
    append(frame.header.span());
    if (out_.size() + frame.payload.size() <= limits::kWriteBatchBytes) {
      append(frame.payload.span());
      continue;
    }
    large_at_ = out_.size() < limits::kWriteBatchBytes ? limits::kWriteBatchBytes - out_.size() : 0;
    append(frame.payload.span().subspan(0, large_at_));
    if (large_at_ < frame.payload.size()) large_ = std::move(frame);
    return;
  }
}

void Link::on_written(const ErrorCode& code) {
  writing_ = false;
  large_.reset();
  share_->queued_bytes -= written_bytes_;
  written_bytes_ = 0;
  if (phase_ == Phase::kEnded) return;
  // A peer that has said farewell and gone leaves our writes broken; its words are still to be
  // read, so the reader tells the reason unless it is paused.
  if (code && (!reading_ || phase_ == Phase::kClosing)) return end(lost(reason(code)));
  if (!code) write();
}

}  // namespace

bool LinkShare::has_room() const {
  return !first_unhandled && inbox_bytes <= limits::kLinkInboxBytes / 2 &&
         inbox_frames <= limits::kLinkInboxFrames / 2;
}

std::shared_ptr<TlsLink> TlsLink::create(boost::asio::io_context& io, ssl_ctx_st* context,
                                         std::shared_ptr<Host> host) {
  return std::make_shared<Link>(io, context, std::move(host));
}

}  // namespace mesh::net
