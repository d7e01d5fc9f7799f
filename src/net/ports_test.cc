#include "net/ports.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace mesh::net {
namespace {

TEST(Ports, TakesTheNextFreeOneAndNamesWhoHoldsABusyOne) {
  auto first = bind_next_free("127.0.0.1", 0, 1);
  ASSERT_TRUE(first.ok()) << first.error().message;
  ASSERT_GT(first->port(), 0);
  const auto owner = port_owner(first->port());
  ASSERT_TRUE(owner.ok());
  EXPECT_EQ(owner->substr(0, owner->find(' ', 4)), fmt::format("PID {}", ::getpid()));
  EXPECT_EQ(bind_next_free("127.0.0.1", first->port(), 1).error().message,
            fmt::format("cannot listen on 127.0.0.1:{}: the port is in use by {}", first->port(),
                        *owner));
  const auto next = bind_next_free("127.0.0.1", first->port(), 50);
  ASSERT_TRUE(next.ok());
  EXPECT_GT(next->port(), first->port());
}

TEST(Ports, SaysWhichRangeIsBusy) {
  // Two neighbours: a free port and the one behind it.
  for (int attempt = 0; attempt < 100; ++attempt) {
    auto first = bind_next_free("127.0.0.1", 0, 1);
    ASSERT_TRUE(first.ok());
    if (first->port() == 65535) continue;
    auto second = bind_next_free("127.0.0.1", static_cast<std::uint16_t>(first->port() + 1), 1);
    if (!second.ok()) continue;
    const auto refused = bind_next_free("127.0.0.1", first->port(), 2);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().message.substr(0, refused.error().message.find(" by PID")),
              fmt::format("cannot listen on 127.0.0.1: the ports {} to {} are all in use ({}",
                          first->port(), second->port(), first->port()));
    return;
  }
  FAIL() << "no two free neighbours in 100 attempts";
}

TEST(Ports, IsFreeAgainAfterTheSocketGoes) {
  std::uint16_t port = 0;
  {
    auto socket = bind_next_free("localhost", 0, 1);
    ASSERT_TRUE(socket.ok());
    port = socket->port();
  }
  EXPECT_EQ(port_owner(port).error().code, Code::kNotFound);
  EXPECT_TRUE(bind_next_free("localhost", port, 1).ok());
}

TEST(Ports, RefusesAnAddressOfAnotherMachine) {
  const auto refused = bind_next_free("192.0.2.1", 0, 1);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message,
            "cannot listen on 192.0.2.1:0: Cannot assign requested address");
  EXPECT_EQ(bind_next_free("not an address", 0, 1).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace mesh::net
