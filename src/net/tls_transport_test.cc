#include "net/tls_transport.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <condition_variable>
#include <csignal>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>

#include "base/limits.h"
#include "env/real_loop.h"
#include "net/ports.h"
#include "net/tls_link.h"
#include "wire/frame.h"

namespace mesh::net {
namespace {

using env::Address;
using env::Frame;
using env::Priority;

constexpr std::chrono::seconds kPatience{60};

Frame frame_of(std::uint64_t stream, std::string_view payload = "",
               Priority p = Priority::kDecode) {
  Frame frame;
  frame.type = 99;
  frame.flags = 7;
  frame.priority = p;
  frame.stream = stream;
  frame.header = Buffer::copy_of("header");
  frame.payload = Buffer::copy_of(payload);
  return frame;
}

// What a handler saw, for a test thread that waits.
class Log final : public env::TransportHandler {
 public:
  void on_link_up(const env::LinkInfo& link) override {
    note([&] { ups.push_back(link); });
  }
  void on_frame(PeerId, Frame frame) override {
    note([&] { frames.push_back(std::move(frame)); });
  }
  void on_link_down(PeerId, const Error& why) override {
    note([&] {
      downs.push_back(why);
      frames_at_down = frames.size();
    });
  }
  void on_dial_failed(const Address&, const Error& why) override {
    note([&] { failures.push_back(why); });
  }
  // Waits until `seen` holds, which it reads under the lock.
  void wait(const std::function<bool()>& seen) {
    std::unique_lock lock(mutex);
    if (!changed.wait_for(lock, kPatience, seen)) {
      ADD_FAILURE() << "waited in vain";
      std::abort();
    }
  }
  void wait_frames(std::size_t count) {
    wait([&] { return frames.size() >= count; });
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<env::LinkInfo> ups;
  std::vector<Frame> frames;
  std::vector<Error> downs, failures;
  std::size_t frames_at_down = 0;

 private:
  template <typename Change>
  void note(Change change) {
    {
      std::lock_guard lock(mutex);
      change();
    }
    changed.notify_all();
  }
};

struct Node {
  explicit Node(IoThread& io, NodeIdentity key = NodeIdentity::generate())
      : identity(std::move(key)),
        transport(std::make_unique<TlsTransport>(io, loop, events, identity)) {
    transport->set_handler(&log);
    const auto bound = transport->listen("127.0.0.1", 0);
    port = bound.ok() ? *bound : std::uint16_t{0};
    loop.start();
  }
  ~Node() {
    loop.stop();
    transport.reset();
  }
  // Runs `task` on the control loop and waits for it.
  void run(const std::function<void()>& task) {
    const auto done = std::make_shared<std::promise<void>>();
    loop.post([&task, done] {
      task();
      done->set_value();
    });
    done->get_future().wait();
  }
  Address address() const { return {"127.0.0.1", port}; }
  PeerId id() const { return identity.id(); }
  void dial(const Address& to) {
    run([&] { transport->dial(to); });
  }
  Result<void> send(PeerId to, Frame frame) {
    Result<void> sent;
    run([&] { sent = transport->send(to, std::move(frame)); });
    return sent;
  }
  void close(PeerId peer, const std::string& why) {
    run([&] { transport->close(peer, Error(Code::kCancelled, why)); });
  }

  NullEvents events;
  NodeIdentity identity;
  env::RealLoop loop;
  Log log;
  std::unique_ptr<TlsTransport> transport;
  std::uint16_t port = 0;
};

void link(Node& from, Node& to) {
  from.dial(to.address());
  from.log.wait([&] { return !from.log.ups.empty(); });
  to.log.wait([&] { return !to.log.ups.empty(); });
}

struct TlsTransportTest : testing::Test {
  TlsTransportTest() { std::signal(SIGPIPE, SIG_IGN); }  // of strangers that write on and on
  IoThread io;
};

// --- two honest nodes ----------------------------------------------------------------------------

TEST_F(TlsTransportTest, BothEndsLearnWhoTheOtherIs) {
  Node a(io), b(io);
  link(a, b);
  EXPECT_EQ(a.log.ups[0].peer, b.id());
  EXPECT_EQ(a.log.ups[0].remote, b.address());
  EXPECT_TRUE(a.log.ups[0].outbound);
  EXPECT_EQ(b.log.ups[0].peer, a.id());
  EXPECT_EQ(b.log.ups[0].remote.host, "127.0.0.1");
  EXPECT_FALSE(b.log.ups[0].outbound);
}

TEST_F(TlsTransportTest, KeepsTheOrderOfAThousandFramesBothWays) {
  Node a(io), b(io);
  link(a, b);
  const auto blast = [](Node& from, PeerId to) {
    from.run([&] {
      for (std::uint64_t i = 0; i < 1000; ++i) {
        const auto priority = static_cast<Priority>(i % 3);
        const std::string payload(i % 7 == 0 ? i * 40 : i % 50, static_cast<char>(i));
        ASSERT_TRUE(from.transport->send(to, frame_of(i, payload, priority)).ok());
      }
    });
  };
  blast(a, b.id());
  blast(b, a.id());
  for (Node* node : {&a, &b}) {
    node->log.wait_frames(1000);
    for (std::uint64_t i = 0; i < 1000; ++i) {
      const Frame& frame = node->log.frames[i];
      ASSERT_EQ(frame.stream, i);
      ASSERT_EQ(frame.payload.text(),
                std::string(i % 7 == 0 ? i * 40 : i % 50, static_cast<char>(i)));
    }
  }
}

TEST_F(TlsTransportTest, CarriesEveryFieldAndALargePayload) {
  Node a(io), b(io);
  link(a, b);
  std::string large(20'000'000, '\0');
  for (std::size_t i = 0; i < large.size(); ++i)
    large[i] = static_cast<char>(i * 2654435761u >> 13);
  ASSERT_TRUE(a.send(b.id(), frame_of(1)).ok());
  ASSERT_TRUE(a.send(b.id(), frame_of(2, large, Priority::kPrefill)).ok());
  ASSERT_TRUE(a.send(b.id(), frame_of(3)).ok());
  b.log.wait_frames(3);
  const Frame& frame = b.log.frames[1];
  EXPECT_EQ(frame.type, 99);
  EXPECT_EQ(frame.flags, 7);
  EXPECT_EQ(frame.priority, Priority::kPrefill);
  EXPECT_EQ(frame.header.text(), "header");
  EXPECT_TRUE(frame.payload.text() == large);
  EXPECT_EQ(b.log.frames[2].stream, 3u);
}

TEST_F(TlsTransportTest, CountsTheBytesOfAllLinksWithAPeer) {
  Node a(io), b(io);
  const auto traffic = [](Node& node, PeerId peer) {
    env::Traffic out;
    node.run([&] { out = node.transport->traffic(peer); });
    return out;
  };
  EXPECT_EQ(traffic(a, b.id()).sent, 0u);
  link(a, b);
  ASSERT_TRUE(a.send(b.id(), frame_of(1)).ok());
  ASSERT_TRUE(a.send(b.id(), frame_of(2, std::string(100'000, 'x'))).ok());
  b.log.wait_frames(2);
  const env::Traffic there = traffic(b, a.id());
  EXPECT_GT(there.received, 100'000u);
  EXPECT_LT(there.received, 102'000u);
  EXPECT_LT(there.sent, 1'000u);
  a.run([&] { a.transport->close(b.id(), Error(Code::kCancelled, "enough")); });
  b.log.wait([&] { return !b.log.downs.empty(); });
  const env::Traffic after = traffic(b, a.id());
  EXPECT_GE(after.received, there.received);
  EXPECT_GT(traffic(a, b.id()).sent, 100'000u);
}

TEST_F(TlsTransportTest, LetsBulkWaitForTheRest) {
  Node a(io), b(io);
  link(a, b);
  std::promise<void> release;
  boost::asio::post(io.context(), [gate = release.get_future().share()] { gate.wait(); });
  a.run([&] {
    for (std::uint64_t i = 0; i < 6; ++i) {
      const auto priority = i < 3 ? Priority::kBulk : static_cast<Priority>(5 - i);
      ASSERT_TRUE(a.transport->send(b.id(), frame_of(i, "", priority)).ok());
    }
  });
  release.set_value();
  b.log.wait_frames(6);
  std::vector<std::uint64_t> order;
  for (const Frame& frame : b.log.frames) order.push_back(frame.stream);
  EXPECT_EQ(order, (std::vector<std::uint64_t>{3, 4, 5, 0, 1, 2}));
}

TEST_F(TlsTransportTest, DeliversToItself) {
  Node a(io);
  ASSERT_TRUE(a.send(a.id(), frame_of(5, "own")).ok());
  a.log.wait_frames(1);
  EXPECT_EQ(a.log.frames[0].payload.text(), "own");
}

TEST_F(TlsTransportTest, RefusesFramesItCannotSend) {
  Node a(io), b(io);
  EXPECT_EQ(a.send(b.id(), frame_of(1)).error().code, Code::kNotFound);
  link(a, b);
  Frame large = frame_of(1);
  large.payload = Buffer(limits::kFramePayloadBytes + 1);
  EXPECT_EQ(a.send(b.id(), std::move(large)).error().code, Code::kInvalidArgument);
  Frame header = frame_of(1);
  header.header = Buffer(limits::kFrameHeaderBytes + 1);
  EXPECT_EQ(a.send(b.id(), std::move(header)).error().code, Code::kInvalidArgument);
  Frame ours = frame_of(1);
  ours.type = kTransportFrame;
  EXPECT_EQ(a.send(b.id(), std::move(ours)).error().code, Code::kInvalidArgument);
}

TEST_F(TlsTransportTest, BoundsTheQueueOfASlowPeerAndLosesNothingAccepted) {
  Node a(io), b(io);
  link(a, b);
  std::promise<void> release;
  b.loop.post([gate = release.get_future().share()] { gate.wait(); });
  std::uint64_t accepted = 0;
  Result<void> sent;
  ASSERT_TRUE(a.send(b.id(), frame_of(0)).ok());
  // Behind the unhandled first frame nothing is read, so the queue fills whatever the speed.
  while (accepted < 20) {
    Frame frame = frame_of(accepted + 1);
    frame.payload = Buffer(40u << 20);
    std::fill(frame.payload.span().begin(), frame.payload.span().end(), std::byte{1});
    sent = a.send(b.id(), std::move(frame));
    if (!sent.ok()) break;
    ++accepted;
  }
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().code, Code::kResourceExhausted);
  EXPECT_GE(accepted, 6u);  // 240 MiB of 256, and what the kernel's buffers have taken meanwhile
  EXPECT_LE(accepted, 8u);
  release.set_value();
  b.log.wait_frames(accepted + 1);
  for (std::uint64_t i = 0; i <= accepted; ++i) EXPECT_EQ(b.log.frames[i].stream, i);
  EXPECT_TRUE(a.send(b.id(), frame_of(99)).ok());
}

// --- beginnings and ends -------------------------------------------------------------------------

TEST_F(TlsTransportTest, KeepsOneLinkOfSimultaneousDials) {
  for (int round = 0; round < 15; ++round) {
    Node a(io), b(io);
    a.loop.post([&] { a.transport->dial(b.address()); });
    b.loop.post([&] { b.transport->dial(a.address()); });
    for (Node* node : {&a, &b}) node->log.wait([&] { return !node->log.ups.empty(); });
    // Each of the two dials has an outcome: one link and one polite refusal.
    Node& loser = [&]() -> Node& {
      std::lock_guard lock(a.log.mutex);
      return a.log.ups[0].outbound ? b : a;
    }();
    loser.log.wait([&] { return loser.log.failures.size() == 1; });
    EXPECT_EQ(loser.log.failures[0].code, Code::kCancelled);
    EXPECT_NE(loser.log.failures[0].message.find("already linked"), std::string::npos)
        << loser.log.failures[0].message;
    ASSERT_TRUE(a.send(b.id(), frame_of(1)).ok());
    ASSERT_TRUE(b.send(a.id(), frame_of(2)).ok());
    for (Node* node : {&a, &b}) {
      node->log.wait_frames(1);
      std::lock_guard lock(node->log.mutex);
      EXPECT_EQ(node->log.ups.size(), 1u);
      EXPECT_TRUE(node->log.downs.empty());
    }
  }
}

TEST_F(TlsTransportTest, RefusesASecondConnectionQuietly) {
  Node a(io), b(io);
  link(a, b);
  for (Node* node : {&a, &b}) {
    node->dial((node == &a ? b : a).address());
    node->log.wait([&] { return node->log.failures.size() == 1; });
    EXPECT_EQ(node->log.failures[0].code, Code::kCancelled);
  }
  ASSERT_TRUE(a.send(b.id(), frame_of(1)).ok());
  b.log.wait_frames(1);
  EXPECT_TRUE(a.log.downs.empty());
  EXPECT_TRUE(b.log.downs.empty());
}

TEST_F(TlsTransportTest, LinksThreeNodesAllToAll) {
  Node a(io), b(io), c(io);
  a.dial(b.address());
  b.dial(c.address());
  c.dial(a.address());
  for (Node* node : {&a, &b, &c}) node->log.wait([&] { return node->log.ups.size() == 2; });
  for (Node* from : {&a, &b, &c})
    for (Node* to : {&a, &b, &c}) ASSERT_TRUE(from->send(to->id(), frame_of(1)).ok());
  for (Node* node : {&a, &b, &c}) node->log.wait_frames(3);
}

TEST_F(TlsTransportTest, WritesWhatIsQueuedBeforeItCloses) {
  Node a(io), b(io);
  link(a, b);
  const std::string payload(5'000'000, 'x');
  a.run([&] {
    ASSERT_TRUE(a.transport->send(b.id(), frame_of(1, "")).ok());
    ASSERT_TRUE(a.transport->send(b.id(), frame_of(2, payload, Priority::kBulk)).ok());
    ASSERT_TRUE(a.transport->send(b.id(), frame_of(3)).ok());
    a.transport->close(b.id(), Error(Code::kCancelled, "enough\n\xC3\xA9"));
    EXPECT_EQ(a.transport->send(b.id(), frame_of(4)).error().code, Code::kNotFound);
  });
  a.log.wait([&] { return a.log.downs.size() == 1; });
  EXPECT_EQ(a.log.downs[0], Error(Code::kCancelled, "enough\n\xC3\xA9"));
  b.log.wait([&] { return b.log.downs.size() == 1; });
  EXPECT_EQ(b.log.frames_at_down, 3u);
  const std::string said = b.log.downs[0].message;
  EXPECT_EQ(said.substr(0, 8), a.id().short_name());
  EXPECT_EQ(said.substr(said.find(" closed")), " closed the link: enough???");
  EXPECT_EQ(b.log.downs[0].code, Code::kUnavailable);
  // And a new link may follow at once.
  b.dial(a.address());
  b.log.wait([&] { return b.log.ups.size() == 2; });
  EXPECT_TRUE(b.send(a.id(), frame_of(5)).ok());
  a.log.wait_frames(1);
}

TEST_F(TlsTransportTest, ReportsAPeerThatVanishesAndLinksItsReturn) {
  Node a(io);
  auto b = std::make_unique<Node>(io);
  const NodeIdentity identity = b->identity;
  link(a, *b);
  b.reset();
  a.log.wait([&] { return a.log.downs.size() == 1; });
  EXPECT_NE(a.log.downs[0].message.find("was lost"), std::string::npos);
  EXPECT_EQ(a.send(identity.id(), frame_of(1)).error().code, Code::kNotFound);
  b = std::make_unique<Node>(io, identity);
  b->dial(a.address());
  a.log.wait([&] { return a.log.ups.size() == 2; });
  EXPECT_EQ(a.log.ups[1].peer, identity.id());
}

TEST_F(TlsTransportTest, NoticesThatItDialsItself) {
  Node a(io);
  a.dial(a.address());
  a.log.wait([&] { return a.log.failures.size() == 1; });
  EXPECT_EQ(a.log.failures[0].message, a.address().to_string() + " is this node itself");
  EXPECT_TRUE(a.log.ups.empty());
}

TEST_F(TlsTransportTest, SaysWhyADialFails) {
  Node a(io);
  std::uint16_t closed = 0;
  { closed = bind_next_free("127.0.0.1", 0, 1)->port(); }
  a.dial({"127.0.0.1", closed});
  a.log.wait([&] { return a.log.failures.size() == 1; });
  EXPECT_EQ(a.log.failures[0].message,
            fmt::format("could not reach 127.0.0.1:{}: connection refused", closed));
  a.dial({"no-such-host.invalid", 1});
  a.log.wait([&] { return a.log.failures.size() == 2; });
  EXPECT_EQ(a.log.failures[1].message.substr(0, 41), "could not reach no-such-host.invalid:1: h");
}

TEST_F(TlsTransportTest, EndsCleanlyWithWorkUnderWay) {
  for (int round = 0; round < 10; ++round) {
    Node a(io), b(io);
    // By value: in the rounds that wait for nothing, b ends before a's loop comes to this.
    a.loop.post([&a, to = b.address()] { a.transport->dial(to); });
    if (round % 2 == 0) {
      a.log.wait([&] { return !a.log.ups.empty(); });
      a.run([&] {
        for (std::uint64_t i = 0; i < 200; ++i)
          static_cast<void>(a.transport->send(b.id(), frame_of(i, std::string(10'000, 'x'))));
      });
    }
    if (round % 3 == 0) a.run([&] { a.transport.reset(); });  // on its loop
  }
  // The other order of ends: the socket thread first.
  auto own = std::make_unique<IoThread>();
  auto a = std::make_unique<Node>(*own), b = std::make_unique<Node>(*own);
  link(*a, *b);
  own->stop();
  a.reset();
  b.reset();
}

// --- strangers -----------------------------------------------------------------------------------

// A blocking client of its own making, which can do everything wrong.
class Stranger {
 public:
  explicit Stranger(std::uint16_t port, int send_timeout_ms = 20'000) {
    socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
    timeval patience{20, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    patience = {send_timeout_ms / 1000, send_timeout_ms % 1000 * 1000};
    ::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    connected_ = ::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Stranger() {
    SSL_free(ssl_);
    ::close(socket_);
  }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;

  void say(std::string_view bytes) {
    EXPECT_TRUE(connected_);
    EXPECT_EQ(::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL), std::ssize(bytes));
  }
  // Reads plain bytes until the other side closes; false when it does not.
  bool closed() {
    char buffer[4096];
    ssize_t count = 0;
    while ((count = ::recv(socket_, buffer, sizeof buffer, 0)) > 0) {
    }
    return count == 0 || errno == ECONNRESET;
  }
  // True when the other side cuts the connection while nothing is read.
  bool reset_without_reading() {
    pollfd watched{socket_, 0, 0};
    return ::poll(&watched, 1, 60'000) == 1 && (watched.revents & (POLLERR | POLLHUP)) != 0;
  }
  // True when a handshake with this context ends in a usable connection.
  bool handshake(SSL_CTX* context) {
    ssl_ = SSL_new(context);
    SSL_set_fd(ssl_, socket_);
    return SSL_connect(ssl_) == 1;
  }
  // A whole frame; false when it is not taken within the send timeout.
  bool write(const Buffer& bytes) {
    std::size_t written = 0;
    return SSL_write_ex(ssl_, bytes.data(), bytes.size(), &written) == 1;
  }
  bool signal(Signal signal) {
    Frame frame;
    frame.stream = static_cast<std::uint64_t>(signal);
    return write(wire::encode_frame(frame));
  }
  // The stream of the next frame, which must be a signal; nothing at the end of the stream.
  std::optional<std::uint64_t> read_signal() {
    std::array<std::byte, wire::kFramePrefixBytes> prefix{};
    std::size_t filled = 0, count = 0;
    while (filled < prefix.size()) {
      if (SSL_read_ex(ssl_, prefix.data() + filled, prefix.size() - filled, &count) != 1)
        return std::nullopt;
      filled += count;
    }
    const auto frame = wire::decode_prefix(prefix);
    return frame.ok() && frame->type == kTransportFrame ? std::optional(frame->stream)
                                                        : std::nullopt;
  }
  // True when the connection ends before anything arrives, by an alert or otherwise.
  bool refused() {
    char byte = 0;
    std::size_t count = 0;
    return SSL_read_ex(ssl_, &byte, 1, &count) != 1;
  }

 private:
  int socket_ = -1;
  bool connected_ = false;
  SSL* ssl_ = nullptr;
};

using Context = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;

constexpr std::string_view kMesh("\x06mesh/1", 7);

Context context_of(const NodeIdentity* identity, std::string_view protocols) {
  Context context(SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_NONE, nullptr);
  if (!protocols.empty())
    SSL_CTX_set_alpn_protos(context.get(), reinterpret_cast<const unsigned char*>(protocols.data()),
                            static_cast<unsigned>(protocols.size()));
  if (identity != nullptr) {
    SSL_CTX_use_certificate(context.get(), identity->certificate());
    SSL_CTX_use_PrivateKey(context.get(), identity->key().native());
  }
  return context;
}

// An identity on the wanted side of `other` in the order of ids.
NodeIdentity identity_beside(PeerId other, bool smaller) {
  while (true) {
    NodeIdentity identity = NodeIdentity::generate();
    if ((identity.id() < other) == smaller) return identity;
  }
}

TEST_F(TlsTransportTest, ClosesOnBytesThatAreNotTls) {
  Node a(io), b(io);
  for (const std::string& bytes :
       {std::string("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), std::string(1000, '\0'),
        std::string("\x16\x03\x01\xff\xff", 5) + std::string(70'000, 'z')}) {
    Stranger stranger(a.port);
    stranger.say(bytes);
    EXPECT_TRUE(stranger.closed());
  }
  link(a, b);
  EXPECT_EQ(a.log.ups.size(), 1u);
  EXPECT_TRUE(a.log.failures.empty());
}

TEST_F(TlsTransportTest, RefusesStrangersInTheHandshake) {
  Node a(io), b(io);
  const NodeIdentity identity = NodeIdentity::generate();
  const auto refused = [&](const Context& context) {
    Stranger stranger(a.port);
    return !stranger.handshake(context.get()) || stranger.refused();
  };
  EXPECT_TRUE(refused(context_of(&identity, std::string_view("\x02h2", 3)))) << "wrong ALPN";
  EXPECT_TRUE(refused(context_of(&identity, ""))) << "no ALPN";
  EXPECT_TRUE(refused(context_of(nullptr, kMesh))) << "no certificate";
  const Context old = context_of(&identity, kMesh);
  SSL_CTX_set_max_proto_version(old.get(), TLS1_2_VERSION);
  EXPECT_TRUE(refused(old)) << "TLS 1.2";
  link(b, a);
  EXPECT_EQ(a.log.ups.size(), 1u);
}

TEST_F(TlsTransportTest, RefusesOtherKindsOfKeys) {
  Node a(io), b(io);
  const NodeIdentity base = NodeIdentity::generate();
  std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  std::unique_ptr<X509, decltype(&X509_free)> leaf(X509_dup(base.certificate()), X509_free);
  X509_set_pubkey(leaf.get(), key.get());
  ASSERT_GT(X509_sign(leaf.get(), key.get(), EVP_sha256()), 0);
  const Context context = context_of(nullptr, kMesh);
  ASSERT_EQ(SSL_CTX_use_certificate(context.get(), leaf.get()), 1);
  ASSERT_EQ(SSL_CTX_use_PrivateKey(context.get(), key.get()), 1);
  Stranger stranger(a.port);
  EXPECT_TRUE(!stranger.handshake(context.get()) || stranger.refused());
  link(b, a);
  EXPECT_EQ(a.log.ups.size(), 1u);
}

TEST_F(TlsTransportTest, EndsALinkThatSendsWhatIsNoFrame) {
  Frame oversized = frame_of(1);
  oversized.payload = Buffer(0);
  Buffer over_limit = wire::encode_frame(oversized);
  const std::uint32_t announced = (64u << 20) + 1;
  std::memcpy(over_limit.data() + 20, &announced, sizeof announced);
  Frame first = frame_of(1);
  first.payload = Buffer(limits::kFirstFrameBytes + 1);
  const Buffer large_first = wire::encode_frame(first);
  const Buffer garbage = Buffer::copy_of(std::string(100, 'g'));
  for (const bool smaller : {false, true}) {
    for (const Buffer* bytes :
         std::initializer_list<const Buffer*>{&over_limit, &large_first, &garbage}) {
      Node a(io);
      const NodeIdentity identity = identity_beside(a.id(), smaller);
      const Context context = context_of(&identity, kMesh);
      Stranger peer(a.port);
      ASSERT_TRUE(peer.handshake(context.get()));
      if (smaller)
        ASSERT_TRUE(peer.signal(Signal::kConfirm));
      else
        ASSERT_EQ(peer.read_signal(), static_cast<std::uint64_t>(Signal::kConfirm));
      peer.write(*bytes);  // may be cut short
      a.log.wait([&] { return a.log.downs.size() == 1; });
      EXPECT_EQ(a.log.downs[0].code, Code::kCorrupt) << a.log.downs[0].message;
      EXPECT_TRUE(a.log.frames.empty());
      EXPECT_TRUE(peer.refused());
    }
  }
}

TEST_F(TlsTransportTest, WaitsForTheSmallerIdToConfirm) {
  Node a(io);
  const NodeIdentity identity = identity_beside(a.id(), true);
  const Context context = context_of(&identity, kMesh);
  {
    Stranger hasty(a.port);  // speaks before it has confirmed
    ASSERT_TRUE(hasty.handshake(context.get()));
    ASSERT_TRUE(hasty.write(wire::encode_frame(frame_of(1))));
    EXPECT_TRUE(hasty.refused());
  }
  EXPECT_TRUE(a.log.ups.empty());
  Stranger first(a.port), second(a.port);
  ASSERT_TRUE(first.handshake(context.get()));
  ASSERT_TRUE(first.signal(Signal::kConfirm));
  a.log.wait([&] { return a.log.ups.size() == 1; });
  // It has come back, perhaps after a power cut that this side has not noticed.
  ASSERT_TRUE(second.handshake(context.get()));
  ASSERT_TRUE(second.signal(Signal::kConfirm));
  a.log.wait([&] { return a.log.ups.size() == 2; });
  ASSERT_EQ(a.log.downs.size(), 1u);
  EXPECT_EQ(a.log.downs[0].message,
            identity.id().short_name() + " has replaced the link by a new one");
  EXPECT_TRUE(first.refused());
  ASSERT_TRUE(second.write(wire::encode_frame(frame_of(8))));
  a.log.wait_frames(1);
  EXPECT_EQ(a.log.frames[0].stream, 8u);
}

TEST_F(TlsTransportTest, ReadsNoFurtherThanTheHandlerKeepsUp) {
  for (const std::uint64_t handled_first : {0u, 1u}) {
    Node a(io);
    const NodeIdentity identity = identity_beside(a.id(), true);
    const Context context = context_of(&identity, kMesh);
    Stranger peer(a.port, 500);
    ASSERT_TRUE(peer.handshake(context.get()));
    ASSERT_TRUE(peer.signal(Signal::kConfirm));
    for (std::uint64_t i = 0; i < handled_first; ++i)
      ASSERT_TRUE(peer.write(wire::encode_frame(frame_of(0))));
    a.log.wait_frames(handled_first);
    std::promise<void> release, blocked;
    a.loop.post([&, gate = release.get_future().share()] {
      blocked.set_value();
      gate.wait();
    });
    blocked.get_future().wait();
    // Written without end; stops when nobody reads. Sockets hold some MB.
    const Buffer frame = wire::encode_frame(frame_of(1, std::string(60'000, 'x')));
    std::size_t written = 0;
    while (written < 4 * limits::kLinkInboxBytes && peer.write(frame)) written += frame.size();
    const std::size_t bound = handled_first == 0 ? 0 : limits::kLinkInboxBytes;
    EXPECT_LT(written, bound + (40u << 20));
    release.set_value();
    a.log.wait_frames(written / frame.size() + handled_first);
    EXPECT_TRUE(a.log.downs.empty());
  }
}

TEST_F(TlsTransportTest, CutsAPeerThatDoesNotReadTheRest) {
  Node a(io);
  const NodeIdentity identity = identity_beside(a.id(), true);
  const Context context = context_of(&identity, kMesh);
  Stranger peer(a.port);
  ASSERT_TRUE(peer.handshake(context.get()));
  ASSERT_TRUE(peer.signal(Signal::kConfirm));
  a.log.wait([&] { return a.log.ups.size() == 1; });
  a.run([&] {
    for (std::uint64_t i = 0; i < 4; ++i) {
      Frame frame = frame_of(i);
      frame.payload = Buffer(60u << 20);
      std::fill(frame.payload.span().begin(), frame.payload.span().end(), std::byte{1});
      ASSERT_TRUE(a.transport->send(identity.id(), std::move(frame)).ok());
    }
    a.transport->close(identity.id(), Error(Code::kCancelled, "enough"));
  });
  a.log.wait([&] { return a.log.downs.size() == 1; });
  EXPECT_TRUE(peer.reset_without_reading());
}

TEST_F(TlsTransportTest, HoldsNoMoreHandshakesOfOneHostThanAllowed) {
  Node a(io), b(io);
  std::vector<std::unique_ptr<Stranger>> idle;
  for (std::size_t i = 0; i < limits::kPendingHandshakesPerHost; ++i) {
    idle.push_back(std::make_unique<Stranger>(a.port));
    idle.back()->say("\x16");
  }
  Stranger surplus(a.port);
  EXPECT_TRUE(surplus.closed());
  idle.clear();
  // The places are free again as soon as the node notices; until then it turns others away.
  for (std::size_t attempt = 1; attempt < 10'000; ++attempt) {
    b.dial(a.address());
    b.log.wait([&] { return b.log.ups.size() + b.log.failures.size() == attempt; });
    if (!b.log.ups.empty()) return;
  }
  FAIL() << "no place became free";
}

TEST_F(TlsTransportTest, SaysThatTheOtherSideIsNoNode) {
  Node a(io);
  auto listener = bind_next_free("127.0.0.1", 0, 1);
  ASSERT_TRUE(listener.ok());
  const std::uint16_t port = listener->port();
  std::thread server([&, descriptor = listener->release()] {
    const int client = ::accept(descriptor, nullptr, nullptr);
    constexpr std::string_view kAnswer = "HTTP/1.1 400 Bad Request\r\n\r\n";
    EXPECT_EQ(::send(client, kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL), std::ssize(kAnswer));
    char buffer[4096];
    while (::recv(client, buffer, sizeof buffer, 0) > 0) {
    }
    ::close(client);
    ::close(descriptor);
  });
  a.dial({"127.0.0.1", port});
  a.log.wait([&] { return a.log.failures.size() == 1; });
  EXPECT_EQ(a.log.failures[0].message,
            fmt::format("TLS handshake with 127.0.0.1:{} failed: wrong version number; is that a "
                        "toolkit-mesh node of this version?",
                        port));
  server.join();
}

}  // namespace
}  // namespace mesh::net
