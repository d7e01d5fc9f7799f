#include "membership/membership.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "base/limits.h"
#include "membership/fake_verifier.h"

namespace mesh::membership {
namespace {

const std::string kCluster(32, 'C');
constexpr std::int64_t kUnix = 1'700'000'000'000;
constexpr std::uint8_t kThree[] = {1, 2, 3};

PeerId id(std::uint8_t n) {
  PeerId peer;
  peer.bytes.fill(n);
  return peer;
}

Instant at_ms(std::int64_t ms) {
  return Instant(milliseconds(ms));
}

std::string address(std::uint8_t n) {
  return fmt::format("10.0.0.{}:8643", n);
}

wire::ModelIdentity pocket(std::uint64_t fingerprint) {
  return {"pocket", fingerprint, 6, 128, 4096, 1024};
}

wire::Hello hello_of(std::uint8_t n) {
  wire::Hello hello;
  hello.protocol = 1;
  hello.node_name = std::string(1, static_cast<char>('a' + n - 1));
  hello.certificate = FakeVerifier::issue(kCluster, id(n), kUnix + 1000);
  hello.engine = {"0.1.0", "cpu/1", 7};
  hello.addresses = {address(n)};
  return hello;
}

wire::NodeRecord record_of(std::uint8_t n, std::uint64_t version) {
  wire::NodeRecord record;
  record.node = id(n);
  record.incarnation = 100;
  record.version = version;
  record.name = std::string(1, static_cast<char>('a' + n - 1));
  record.addresses = {address(n)};
  return record;
}

wire::SignedRecord signed_by(std::uint8_t n, const wire::NodeRecord& record) {
  const FakeVerifier key(id(n), kCluster);
  const std::string bytes = wire::encode_record(record);
  return {bytes, key.public_key(), key.sign("mesh/1 record\n" + bytes)};
}

// One core under test, node 5 ("e"), and frames as its peers would send them.
struct Fixture {
  explicit Fixture(wire::Hello hello = hello_of(5), std::vector<env::Address> seeds = {}) {
    Config config;
    config.self = id(5);
    config.hello = std::move(hello);
    config.seeds = std::move(seeds);
    config.verifier = &verifier;
    core = std::make_unique<Membership>(std::move(config));
  }
  Actions up(std::int64_t ms, std::uint8_t n, bool outbound = false) {
    return core->link_up(at_ms(ms), {id(n), *env::Address::parse(address(n)), outbound});
  }
  template <typename Message>
  Actions receive(std::int64_t ms, std::uint8_t n, const Message& message) {
    return core->frame(at_ms(ms), kUnix, id(n), wire::encode(message));
  }
  // Links node n and accepts its HELLO.
  Actions join(std::int64_t ms, std::uint8_t n) {
    (void)up(ms, n);
    return receive(ms, n, hello_of(n));
  }
  FakeVerifier verifier{id(5), kCluster};
  std::unique_ptr<Membership> core;
};

std::vector<int> sent_to(const Actions& actions, std::uint8_t n) {
  std::vector<int> types;
  for (const auto& [peer, frame] : actions.send)
    if (peer == id(n)) types.push_back(frame.type);
  return types;
}

TEST(Membership, GreetsAndAccepts) {
  Fixture f;
  (void)f.core->set_own(at_ms(0), record_of(5, 0));
  EXPECT_EQ(sent_to(f.up(1, 1), 1), std::vector<int>{1});
  EXPECT_FALSE(f.core->accepted(id(1)));
  const Actions out = f.receive(2, 1, hello_of(1));
  EXPECT_EQ(sent_to(out, 1), (std::vector<int>{3, 4}));  // a probe and its own record
  EXPECT_EQ(out.changes, (std::vector<Change>{{Change::Kind::kMemberUp, id(1), "a"}}));
  EXPECT_TRUE(f.core->accepted(id(1)));
}

TEST(Membership, NothingBeforeHello) {
  Fixture f;
  (void)f.up(1, 1);
  const Actions out = f.receive(2, 1, wire::Close{{SequenceId{1}}});
  ASSERT_EQ(out.close.size(), 1u);
  EXPECT_EQ(out.close[0].second.code, Code::kPermissionDenied);
  EXPECT_TRUE(f.receive(3, 1, hello_of(1)).changes.empty()) << "the link is closed";
}

TEST(Membership, HelloHasADeadline) {
  Fixture f;
  (void)f.up(0, 1);
  EXPECT_EQ(f.core->wake_at(), at_ms(5000));
  EXPECT_TRUE(f.core->tick(at_ms(4999)).close.empty());
  const Actions out = f.core->tick(at_ms(5000));
  ASSERT_EQ(out.close.size(), 1u);
  EXPECT_EQ(out.close[0].second.code, Code::kDeadlineExceeded);
}

struct RefusalCase {
  std::string what;
  std::function<void(wire::Hello&)> change;
  std::string ours, theirs;
};

TEST(Membership, RefusalsNameBothSides) {
  const std::string a = "node a (" + id(1).short_name() + ")";
  const std::string e = "node e (" + id(5).short_name() + ")";
  const std::vector<RefusalCase> cases = {
      {"protocol", [](wire::Hello& h) { h.protocol = 2; },
       "this node speaks mesh/1, " + a + " speaks mesh/2: update the older one",
       "this node speaks mesh/2, " + e + " speaks mesh/1: update the older one"},
      {"version", [](wire::Hello& h) { h.engine.version = "0.2.0"; },
       "this node runs version 0.1.0, " + a +
           " runs version 0.2.0: start both from the same version",
       "this node runs version 0.2.0, " + e +
           " runs version 0.1.0: start both from the same version"},
      {"class", [](wire::Hello& h) { h.engine.numeric_class = "gpu/1"; },
       "this node computes in numeric class cpu/1, " + a +
           " in gpu/1: their results would differ, choose one class",
       "this node computes in numeric class gpu/1, " + e +
           " in cpu/1: their results would differ, choose one class"},
      {"self-test", [](wire::Hello& h) { h.engine.self_test = 8; },
       "this node and " + a +
           " are both of numeric class cpu/1, but their self-tests give 0000000000000007 and "
           "0000000000000008: one of them computes wrongly, run 'toolkit-mesh doctor' on both",
       "this node and " + e +
           " are both of numeric class cpu/1, but their self-tests give 0000000000000008 and "
           "0000000000000007: one of them computes wrongly, run 'toolkit-mesh doctor' on both"},
      {"model", [](wire::Hello& h) { h.model = pocket(0x34CD); },
       "this node serves pocket (fingerprint 00000000000012ab), " + a +
           " serves pocket (fingerprint 00000000000034cd): their weights differ, start both from "
           "the same files",
       "this node serves pocket (fingerprint 00000000000034cd), " + e +
           " serves pocket (fingerprint 00000000000012ab): their weights differ, start both from "
           "the same files"},
      {"cluster",
       [](wire::Hello& h) {
         h.certificate = FakeVerifier::issue(std::string(32, 'D'), id(1), kUnix + 1);
       },
       "this node belongs to cluster 43434343, " + a +
           " to cluster 44444444: the same cluster.key is needed on both",
       "this node belongs to cluster 44444444, " + e +
           " to cluster 43434343: the same cluster.key is needed on both"},
      {"expired",
       [](wire::Hello& h) { h.certificate = FakeVerifier::issue(kCluster, id(1), kUnix - 1); },
       "this node does not admit " + a + ": its certificate has expired",
       e + " does not admit this node: its certificate has expired"},
  };
  for (const RefusalCase& c : cases) {
    SCOPED_TRACE(c.what);
    wire::Hello own = hello_of(5);
    own.model = pocket(0x12AB);
    Fixture f(own);
    (void)f.up(0, 1);
    wire::Hello other = hello_of(1);
    c.change(other);
    const Actions out = f.receive(1, 1, other);
    ASSERT_EQ(out.changes.size(), 1u);
    EXPECT_EQ(out.changes[0].kind, Change::Kind::kRefused);
    EXPECT_EQ(out.changes[0].sentence, c.ours);
    ASSERT_EQ(out.send.size(), 1u);
    EXPECT_EQ(wire::decode_refuse(out.send[0].second).value().why.message, c.theirs);
    ASSERT_EQ(out.close.size(), 1u);
    EXPECT_FALSE(f.core->accepted(id(1)));
  }
}

TEST(Membership, NodesWithoutAModelAcceptAny) {
  Fixture f;
  (void)f.up(0, 1);
  wire::Hello other = hello_of(1);
  other.model = pocket(0x34CD);
  EXPECT_TRUE(f.receive(1, 1, other).close.empty());
  EXPECT_TRUE(f.core->accepted(id(1)));
}

TEST(Membership, AModelThatComesLaterIsCompared) {
  Fixture f;
  (void)f.join(0, 1);
  wire::NodeRecord record = record_of(1, 1);
  record.model = pocket(0x34CD);
  (void)f.receive(1, 1, signed_by(1, record));
  EXPECT_TRUE(f.core->set_model(at_ms(2), pocket(0x34CD)).close.empty());
  const Actions out = f.core->set_model(at_ms(3), pocket(0x12AB));
  ASSERT_EQ(out.close.size(), 1u);
  EXPECT_NE(out.close[0].second.message.find("their weights differ"), std::string::npos);
  EXPECT_FALSE(f.core->accepted(id(1)));
}

TEST(Membership, TheRefusedSideReportsTheSentence) {
  Fixture f(hello_of(5), {*env::Address::parse(address(1))});
  EXPECT_EQ(f.core->tick(at_ms(0)).dial.size(), 1u);
  (void)f.up(1, 1, true);
  const Actions out =
      f.receive(2, 1, wire::Refuse{Error(Code::kUnsupported, "this node runs version 0.1.0, …")});
  ASSERT_EQ(out.changes.size(), 1u);
  EXPECT_EQ(out.changes[0].sentence, "this node runs version 0.1.0, …");
  (void)f.core->link_down(at_ms(3), id(1), Error(Code::kUnavailable, "closed"));
  // Not redialled quickly: the back-off starts at its largest.
  EXPECT_GE(f.core->wake_at(), at_ms(22'000));
  EXPECT_LE(f.core->wake_at(), at_ms(38'000));
}

TEST(Membership, NewerRecordsAreForwardedToTheOthers) {
  Fixture f;
  for (const std::uint8_t n : kThree) (void)f.join(0, n);
  const Actions first = f.receive(1, 1, signed_by(1, record_of(1, 1)));
  EXPECT_EQ(sent_to(first, 1), std::vector<int>{});
  EXPECT_EQ(sent_to(first, 2), std::vector<int>{4});
  EXPECT_EQ(sent_to(first, 3), std::vector<int>{4});
  EXPECT_TRUE(f.receive(2, 2, signed_by(1, record_of(1, 1))).send.empty()) << "known";
  const Actions second = f.receive(3, 2, signed_by(1, record_of(1, 5)));
  EXPECT_EQ(sent_to(second, 1), std::vector<int>{}) << "its owner has it";
  EXPECT_EQ(sent_to(second, 3), std::vector<int>{4});
  EXPECT_TRUE(f.receive(4, 1, signed_by(1, record_of(1, 4))).changes.empty()) << "older";
  EXPECT_EQ(f.core->members().at(id(1)).record.version, 5u);
  wire::NodeRecord restarted = record_of(1, 1);
  restarted.incarnation = 101;
  EXPECT_EQ(f.receive(5, 1, signed_by(1, restarted)).changes.size(), 1u);
}

TEST(Membership, BadSignaturesAreStrikes) {
  Fixture f;
  (void)f.join(0, 1);
  for (int i = 1; i < limits::kStrikes; ++i) {
    const Actions out = f.receive(i, 1, signed_by(2, record_of(1, 3)));  // not by its owner
    EXPECT_TRUE(out.changes.empty() && out.close.empty());
  }
  EXPECT_EQ(f.core->members().at(id(1)).record.version, 0u);
  const Actions out = f.receive(50, 1, signed_by(2, record_of(1, 3)));
  ASSERT_EQ(out.close.size(), 1u);
  EXPECT_EQ(out.close[0].second.code, Code::kCorrupt);
}

TEST(Membership, AnEarlierLifeDoesNotOutrankThisOne) {
  Fixture f;
  (void)f.core->set_own(at_ms(0), record_of(5, 0));
  (void)f.join(1, 1);
  wire::NodeRecord past = record_of(5, 70);
  past.incarnation = 200;  // the clock was ahead then
  const Actions out = f.receive(2, 1, signed_by(5, past));
  ASSERT_EQ(sent_to(out, 1), std::vector<int>{4});
  EXPECT_EQ(f.core->own().incarnation, 201u);
  EXPECT_TRUE(f.core->set_own(at_ms(3), record_of(5, 0)).send.empty()) << "unchanged";
}

TEST(Membership, OwnRecordIsSentOnChangeOnly) {
  Fixture f;
  (void)f.join(0, 1);
  wire::NodeRecord own = record_of(5, 0);
  EXPECT_EQ(f.core->set_own(at_ms(1), own).send.size(), 1u);
  EXPECT_EQ(f.core->set_own(at_ms(2), own).send.size(), 0u);
  own.state = wire::NodeState::kReady;
  EXPECT_EQ(f.core->set_own(at_ms(3), own).send.size(), 1u);
  EXPECT_EQ(f.core->own().version, 2u);
}

TEST(Membership, HeartbeatsMeasureTheRoundTrip) {
  Fixture f;
  (void)f.join(100, 1);
  const Actions beat = f.core->tick(at_ms(600));
  ASSERT_EQ(sent_to(beat, 1), std::vector<int>{3});
  const auto probe = wire::decode_heartbeat(beat.send[0].second).value();
  (void)f.receive(612, 1, wire::Heartbeat{probe.count, 0, probe.sent_ns});
  EXPECT_EQ(f.core->members().at(id(1)).rtt, milliseconds(12));
  // A probe is answered at once with its own time.
  const Actions answer = f.receive(613, 1, wire::Heartbeat{9, 4242, 0});
  ASSERT_EQ(answer.send.size(), 1u);
  const auto echo = wire::decode_heartbeat(answer.send[0].second).value();
  EXPECT_EQ(echo.echo_ns, 4242u);
  EXPECT_EQ(echo.sent_ns, 0u);
  // Impossible echoes change nothing.
  (void)f.receive(614, 1, wire::Heartbeat{9, 0, ~0ull});
  EXPECT_EQ(f.core->members().at(id(1)).rtt, milliseconds(12));
}

TEST(Membership, SilenceEndsTheLink) {
  Fixture f;
  (void)f.join(0, 1);
  Actions out;
  std::int64_t ms = 0;
  while (out.close.empty() && ms < 10'000) {
    const Instant at = f.core->wake_at();
    ms = at.time_since_epoch() / milliseconds(1);
    out = f.core->tick(at);
  }
  EXPECT_EQ(ms, 2000);
  ASSERT_EQ(out.close.size(), 1u);
  EXPECT_EQ(out.close[0].second.message,
            "node a (" + id(1).short_name() + ") was silent for 2.0 s");
  EXPECT_EQ(out.changes.at(0).kind, Change::Kind::kMemberDown);
  EXPECT_FALSE(f.core->members().at(id(1)).alive);
}

TEST(Membership, StandingStillIsNotThePeersSilence) {
  Fixture f;
  (void)f.join(0, 1);
  EXPECT_TRUE(f.core->tick(at_ms(60'000)).close.empty());
  EXPECT_TRUE(f.core->accepted(id(1)));
}

TEST(Membership, SmallerIdDialsAtOnceLargerYields) {
  Fixture f;
  (void)f.join(0, 9);
  (void)f.receive(1, 9, signed_by(1, record_of(1, 1)));
  (void)f.receive(1, 9, signed_by(7, record_of(7, 1)));
  const Actions now = f.core->tick(at_ms(1));
  ASSERT_EQ(now.dial.size(), 1u);
  EXPECT_EQ(now.dial[0].to_string(), address(7));
  EXPECT_TRUE(f.core->tick(at_ms(1000)).dial.empty());
  const Actions later = f.core->tick(at_ms(1001));
  ASSERT_EQ(later.dial.size(), 1u);
  EXPECT_EQ(later.dial[0].to_string(), address(1));
}

TEST(Membership, RedialsBackOff) {
  const env::Address seed{"seed.example", 8643};
  Fixture f(hello_of(5), {seed});
  const Error why(Code::kUnavailable, "refused");
  double now = 0, wait = 0;
  for (int i = 0; i < 12; ++i) {
    const Instant at = f.core->wake_at();
    wait = to_seconds(at - Instant{}) - now;
    now += wait;
    const double expected = i == 0 ? 0 : std::min(30.0, 0.5 * (1 << (i - 1)));
    EXPECT_GE(wait, 0.75 * expected) << i;
    EXPECT_LE(wait, 1.25 * expected) << i;
    ASSERT_EQ(f.core->tick(at).dial, std::vector<env::Address>{seed}) << i;
    (void)f.core->dial_failed(at, seed, why);
  }
}

TEST(Membership, LostMembersAreForgotten) {
  Fixture f;
  (void)f.join(0, 1);
  (void)f.receive(1, 1, signed_by(1, record_of(1, 1)));
  (void)f.core->link_down(at_ms(1000), id(1), Error(Code::kUnavailable, "reset"));
  EXPECT_EQ(f.core->members().count(id(1)), 1u);
  (void)f.core->tick(at_ms(600'999));
  EXPECT_EQ(f.core->members().count(id(1)), 1u);
  const Actions out = f.core->tick(at_ms(601'000));
  EXPECT_EQ(out.changes.at(0).kind, Change::Kind::kForgotten);
  EXPECT_EQ(f.core->members().count(id(1)), 0u);
}

TEST(Membership, LostMembersAreToldToNewLinksForAMinuteOnly) {
  Fixture f;
  (void)f.join(0, 1);
  (void)f.receive(1, 1, signed_by(1, record_of(1, 1)));
  (void)f.core->link_down(at_ms(1000), id(1), Error(Code::kUnavailable, "reset"));
  EXPECT_EQ(sent_to(f.join(61'000, 2), 2), (std::vector<int>{3, 4}));
  EXPECT_EQ(sent_to(f.join(61'001, 3), 3), (std::vector<int>{3}));
}

wire::Plan plan_of(std::uint64_t epoch, std::uint8_t planner) {
  return {Epoch{epoch}, id(planner), 0x12AB, 6, {{id(planner), {0, 6}}}};
}

TEST(Membership, TheLargerEpochThenTheLowerPlannerWins) {
  Fixture f;
  for (const std::uint8_t n : kThree) (void)f.join(0, n);
  const Actions first = f.receive(1, 2, plan_of(4, 2));
  EXPECT_EQ(first.changes.size(), 1u);
  EXPECT_EQ(sent_to(first, 1), std::vector<int>{5});
  EXPECT_EQ(sent_to(first, 2), std::vector<int>{});
  EXPECT_TRUE(f.receive(2, 1, plan_of(4, 2)).send.empty()) << "known";
  const Actions older = f.receive(3, 3, plan_of(3, 1));
  EXPECT_TRUE(older.changes.empty());
  EXPECT_EQ(sent_to(older, 3), std::vector<int>{5}) << "the sender learns the newer one";
  EXPECT_EQ(f.receive(4, 1, plan_of(4, 1)).changes.size(), 1u);
  EXPECT_TRUE(f.receive(5, 3, plan_of(4, 3)).changes.empty());
  EXPECT_EQ(f.core->announce(at_ms(6), plan_of(5, 5)).send.size(), 3u);
  EXPECT_TRUE(f.core->announce(at_ms(7), plan_of(4, 1)).send.empty());
  EXPECT_EQ(f.core->plan(), plan_of(5, 5));
  EXPECT_EQ(sent_to(f.join(8, 4), 4), (std::vector<int>{3, 5})) << "a new link learns the plan";
}

TEST(Membership, APlanForOtherWeightsIsNotForUs) {
  wire::Hello own = hello_of(5);
  own.model = pocket(0x34CD);
  Fixture f(own);
  (void)f.join(0, 1);
  EXPECT_TRUE(f.receive(1, 1, plan_of(4, 1)).changes.empty());
  EXPECT_EQ(f.core->plan().epoch.value, 0u);
}

TEST(Membership, UnknownFramesAreSkippedOnlyWhenOptional) {
  Fixture f;
  (void)f.join(0, 1);
  env::Frame frame;
  frame.type = 200;
  frame.flags = wire::kFlagOptional;
  EXPECT_TRUE(f.core->frame(at_ms(1), kUnix, id(1), frame).close.empty());
  frame.flags = 0;
  const Actions out = f.core->frame(at_ms(2), kUnix, id(1), frame);
  ASSERT_EQ(out.close.size(), 1u);
  EXPECT_EQ(out.close[0].second.code, Code::kUnsupported);
}

TEST(Membership, OurOwnAddressIsNotDialledAgain) {
  Fixture f(hello_of(5), {*env::Address::parse(address(5))});
  EXPECT_EQ(f.core->tick(at_ms(0)).dial.size(), 1u);
  EXPECT_EQ(f.up(1, 5, true).close.size(), 1u);
  EXPECT_EQ(f.core->wake_at(), Instant::max());
}

TEST(Membership, StrangersLeaveNoTrace) {
  Fixture f;
  for (std::uint8_t n = 10; n < 60; ++n) {
    (void)f.up(1, n);
    wire::Hello hello = hello_of(n);
    hello.certificate.signature = std::string(64, 'x');
    EXPECT_EQ(f.receive(2, n, hello).close.size(), 1u);
  }
  EXPECT_TRUE(f.core->members().empty());
  EXPECT_EQ(f.core->wake_at(), Instant::max());
}

}  // namespace
}  // namespace mesh::membership
