#include "pipeline/prompt_window.h"

#include <gtest/gtest.h>

#include <deque>

#include "base/limits.h"
#include "base/random.h"
#include "pipeline/test_compute.h"

namespace mesh::pipeline {
namespace {

const PeerId kA = test_peer('a'), kB = test_peer('b');

TEST(PromptWindow, CountsEachPeerForItself) {
  PromptWindow window;
  EXPECT_EQ(window.room(kA), limits::kPromptRowsAhead);
  window.sent(kA, 1000);
  EXPECT_EQ(window.room(kA), limits::kPromptRowsAhead - 1000);
  EXPECT_EQ(window.room(kB), limits::kPromptRowsAhead);
  window.acknowledged(kB, 5);
  window.acknowledged(kA, 900);
  EXPECT_EQ(window.room(kA), limits::kPromptRowsAhead - 100);
  window.lost(kA);
  EXPECT_EQ(window.room(kA), limits::kPromptRowsAhead);
}

TEST(PromptWindow, MoreAcknowledgedThanSentGivesNoMoreRoom) {
  PromptWindow window;
  window.sent(kA, 3);
  window.acknowledged(kA, 0xFFFFFFFFu);
  EXPECT_EQ(window.room(kA), limits::kPromptRowsAhead);
}

TEST(PromptWindow, AcknowledgesManyAtOnceAndTheLastAtOnce) {
  PromptWindow window;
  const auto done = [&](PeerId from, std::size_t rows) {
    window.done(from, rows);
    return window.tell(from);
  };
  window.arrived(kA, 200);
  EXPECT_EQ(done(kA, 63), 0u);
  EXPECT_EQ(done(kA, 1), 64u);
  EXPECT_EQ(done(kA, 10), 0u);
  window.arrived(kB, 1);
  EXPECT_EQ(done(kB, 1), 1u);
  EXPECT_EQ(done(kA, 126), 136u);
  EXPECT_EQ(window.tell(kA), 0u);
}

TEST(PromptWindowDeathTest, SendingBeyondTheRoomIsABug) {
  PromptWindow window;
  EXPECT_DEATH(window.sent(kA, limits::kPromptRowsAhead + 1), "prompt rows sent");
}

// A sender and a receiver with links in between: what is on the way never exceeds the window, and
// when all is done nothing of it is lost.
TEST(PromptWindow, RandomTrafficNeverExceedsTheWindowAndLeaksNothing) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Prng random(seed);
    PromptWindow sender, receiver;
    std::deque<std::size_t> there, back;
    std::size_t waiting = 0, ahead = 0;
    for (int step = 0; step < 3000; ++step) {
      const auto what = step < 2500 ? random.below(4) : 1 + random.below(3);
      if (what == 0) {
        const std::size_t rows = std::min<std::size_t>(random.below(300), sender.room(kB));
        sender.sent(kB, rows);
        ahead += rows;
        there.push_back(rows);
      } else if (what == 1 && !there.empty()) {
        receiver.arrived(kA, there.front());
        waiting += there.front();
        there.pop_front();
      } else if (what == 2 && waiting > 0) {
        const std::size_t rows = 1 + random.below(waiting);
        waiting -= rows;
        ahead -= rows;
        receiver.done(kA, rows);
        back.push_back(receiver.tell(kA));
      } else if (what == 3 && !back.empty()) {
        sender.acknowledged(kB, back.front());
        back.pop_front();
      }
      ASSERT_LE(ahead, limits::kPromptRowsAhead);
      ASSERT_LE(ahead, limits::kPromptRowsAhead - sender.room(kB));
    }
    while (!there.empty()) {
      receiver.arrived(kA, there.front());
      waiting += there.front();
      there.pop_front();
    }
    receiver.done(kA, waiting);
    back.push_back(receiver.tell(kA));
    for (std::size_t rows : back) sender.acknowledged(kB, rows);
    EXPECT_EQ(sender.room(kB), limits::kPromptRowsAhead);
  }
}

}  // namespace
}  // namespace mesh::pipeline
