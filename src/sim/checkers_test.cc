#include "sim/checkers.h"

#include <gtest/gtest.h>

namespace mesh::sim {
namespace {

Instant at(std::int64_t s) {
  return Instant(seconds(s));
}

TEST(RequestChecker, AcceptsWhatIsRight) {
  Violations v;
  RequestChecker checker(v);
  checker.admitted("a", at(0), at(10), {7, 8});
  checker.admitted("b", at(0), at(10));
  checker.token("a", 0, 7);
  checker.token("a", 1, 8);
  checker.ended("a", at(5));
  checker.failed("b", at(5), Error(Code::kUnavailable, "node b is gone"));
  checker.finish();
  EXPECT_TRUE(v.empty()) << v.all()[0];
}

// Each row breaks one rule and must give exactly one violation.
TEST(RequestChecker, CatchesEachFault) {
  const auto count = [](auto faulty) {
    Violations v;
    RequestChecker checker(v);
    checker.admitted("a", at(0), at(10), {7, 8});
    faulty(checker);
    checker.finish();
    return v.count();
  };
  const Error gone(Code::kUnavailable, "gone");
  EXPECT_EQ(count([](auto&) {}), 1u) << "never ends";
  EXPECT_EQ(count([](auto& c) { c.ended("a", at(1)); }), 1u) << "too few tokens";
  EXPECT_EQ(count([&](auto& c) { c.token("a", 1, 8), c.failed("a", at(1), gone); }), 1u) << "gap";
  EXPECT_EQ(count([&](auto& c) { c.token("a", 0, 9), c.failed("a", at(1), gone); }), 1u) << "wrong";
  EXPECT_EQ(count([&](auto& c) { c.failed("a", at(1), gone), c.failed("a", at(1), gone); }), 1u);
  EXPECT_EQ(count([&](auto& c) { c.failed("a", at(11), gone); }), 1u) << "late";
  EXPECT_EQ(count([&](auto& c) { c.failed("a", at(1), Error(Code::kInternal, "x")); }), 1u);
  EXPECT_EQ(count([&](auto& c) { c.token("b", 0, 1), c.failed("a", at(1), gone); }), 1u);
}

TEST(Checkers, RoutePagesEpochs) {
  PeerId one;
  one.bytes[0] = 1;
  scheduler::NodeView node;
  node.record.node = one;
  node.record.epoch = Epoch{3};
  node.record.layers = {0, 6};
  Violations v;
  check_route({{one, {0, 6}}}, Epoch{3}, 6, {node}, v);
  check_pages("n", 3, 4, false, v);
  check_limit("queue", 4, 4, v);
  EXPECT_TRUE(v.empty());
  check_route({{one, {0, 6}}}, Epoch{4}, 6, {node}, v);
  check_route({{one, {0, 5}}}, Epoch{3}, 6, {node}, v);
  check_route({{one, {1, 6}}}, Epoch{3}, 6, {node}, v);
  check_pages("n", 5, 4, false, v);
  check_pages("n", 1, 4, true, v);
  check_limit("queue", 5, 4, v);
  EpochChecker epochs(v);
  epochs.seen("n", Epoch{4});
  epochs.seen("n", Epoch{3});
  epochs.restarted("n");
  epochs.seen("n", Epoch{1});
  EXPECT_EQ(v.count(), 7u);
}

}  // namespace
}  // namespace mesh::sim
