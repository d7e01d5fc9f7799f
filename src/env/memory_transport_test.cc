#include "env/memory_transport.h"

#include <gtest/gtest.h>

#include <vector>

#include "env/manual_loop.h"

namespace mesh::env {
namespace {

PeerId peer(std::uint8_t n) {
  PeerId id;
  id.bytes[0] = n;
  return id;
}

struct Log : TransportHandler {
  void on_link_up(const LinkInfo& link) override {
    lines.push_back(fmt::format("up {} {}", link.peer.bytes[0], link.outbound));
  }
  void on_frame(PeerId from, Frame frame) override {
    lines.push_back(
        fmt::format("frame {} {} {}", from.bytes[0], frame.stream, frame.payload.text()));
  }
  void on_link_down(PeerId id, const Error& why) override {
    lines.push_back(fmt::format("down {} {}", id.bytes[0], why.message));
  }
  void on_dial_failed(const Address& address, const Error& why) override {
    lines.push_back(fmt::format("failed {}: {}", address.to_string(), why.message));
  }
  std::vector<std::string> lines;
};

struct MemoryTransportTest : testing::Test {
  MemoryTransportTest() {
    a->set_handler(&log_a);
    b->set_handler(&log_b);
  }
  ManualLoop loop;
  MemoryNetwork network;
  std::unique_ptr<MemoryTransport> a = network.attach(peer(1), {"a", 1}, loop);
  std::unique_ptr<MemoryTransport> b = network.attach(peer(2), {"b", 1}, loop);
  Log log_a, log_b;
  using Lines = std::vector<std::string>;
};

Frame frame_of(std::uint64_t stream, std::string_view text) {
  Frame frame;
  frame.type = 1;
  frame.stream = stream;
  frame.payload = Buffer::copy_of(text);
  return frame;
}

TEST_F(MemoryTransportTest, LinksSendsAndCloses) {
  a->dial({"b", 1});
  EXPECT_TRUE(log_a.lines.empty());  // never from within the call
  loop.run_ready();
  ASSERT_TRUE(a->send(peer(2), frame_of(1, "x")).ok());
  ASSERT_TRUE(a->send(peer(2), frame_of(2, "y")).ok());
  ASSERT_TRUE(b->send(peer(2), frame_of(3, "self")).ok());
  loop.run_ready();
  b->close(peer(1), Error(Code::kCancelled, "enough"));
  loop.run_ready();
  EXPECT_EQ(
      log_a.lines,
      (Lines{"up 2 true", fmt::format("down 2 {} closed the link: enough", peer(2).short_name())}));
  EXPECT_EQ(log_b.lines,
            (Lines{"up 1 false", "frame 1 1 x", "frame 1 2 y", "frame 2 3 self", "down 1 enough"}));
  EXPECT_EQ(a->send(peer(2), frame_of(1, "x")).error().code, Code::kNotFound);
}

TEST_F(MemoryTransportTest, ReportsFailedDials) {
  a->dial({"c", 1});
  a->dial({"a", 1});
  a->dial({"b", 1});
  b->dial({"a", 1});
  loop.run_ready();
  EXPECT_EQ(log_a.lines, (Lines{"failed c:1: could not reach c:1: connection refused",
                                "failed a:1: a:1 is this node itself", "up 2 true"}));
  EXPECT_EQ(log_b.lines, (Lines{"up 1 false", fmt::format("failed a:1: a:1 is already linked as {}",
                                                          peer(1).short_name())}));
}

TEST_F(MemoryTransportTest, TellsPeersOfADestroyedEndpoint) {
  a->dial({"b", 1});
  loop.run_ready();
  ASSERT_TRUE(b->send(peer(1), frame_of(1, "late")).ok());
  a.reset();
  loop.run_ready();
  EXPECT_EQ(log_a.lines, Lines{"up 2 true"});
  EXPECT_EQ(log_b.lines.back(), fmt::format("down 1 {} is gone", peer(1).short_name()));
}

}  // namespace
}  // namespace mesh::env
