#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>
#include <thread>

#include "env/blocking_pool.h"
#include "env/manual_loop.h"
#include "env/real_loop.h"
#include "env/system_random.h"
#include "env/text_events.h"

namespace mesh::env {
namespace {

constexpr std::chrono::seconds kPatience{30};

template <typename T>
T get(std::future<T> future) {
  if (future.wait_for(kPatience) != std::future_status::ready) {
    ADD_FAILURE() << "nothing happened within the deadline";
    std::abort();
  }
  return future.get();
}

TEST(RealLoop, RunsTasksOfAThreadInTheOrderPosted) {
  RealLoop loop;
  loop.start();
  std::vector<int> seen;
  for (int i = 0; i < 1000; ++i) loop.post([&seen, i] { seen.push_back(i); });
  loop.stop();
  ASSERT_EQ(seen.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
}

TEST(RealLoop, StopDrainsWhatTasksPost) {
  RealLoop loop;
  int depth = 0;
  std::function<void()> again = [&] {
    if (++depth < 100) loop.post(again);
  };
  loop.post(again);
  loop.start();
  loop.stop();
  EXPECT_EQ(depth, 100);
  loop.post([&] { depth = -1; });  // ignored, and does not block
  EXPECT_EQ(depth, 100);
}

TEST(RealLoop, FiresTimersInOrderAndNotTheCancelledOnes) {
  RealLoop loop;
  std::promise<std::string> done;
  std::string order;
  std::vector<TimerHandle> handles;
  loop.post([&] {
    handles.push_back(loop.after(milliseconds(3), [&] { done.set_value(order); }));
    handles.push_back(loop.after(milliseconds(2), [&] { order += "b"; }));
    handles.push_back(loop.after(milliseconds(1), [&] { order += "a"; }));
    handles.push_back(loop.after(milliseconds(1), [&] { order += "x"; }));
    handles.push_back(loop.after(milliseconds(2), [&] { order += "c"; }));
    handles[3].cancel();
  });
  loop.start();
  EXPECT_EQ(get(done.get_future()), "abc");
  EXPECT_FALSE(handles[0].armed());
  loop.stop();
}

TEST(RealLoop, HoldsTimeWithinATurn) {
  RealLoop loop;
  loop.post([&] {
    const Instant first = loop.now();
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    while (std::chrono::steady_clock::now() < until) {
    }
    EXPECT_EQ(loop.now(), first);
    loop.post([&loop, first] { EXPECT_GT(loop.now(), first); });
  });
  loop.start();
  loop.stop();
}

TEST(RealLoop, NeitherDeadlocksNorLosesTasksWhenFull) {
  RealLoop loop(4);
  std::atomic<int> ran{0};
  loop.post([&] {
    for (int i = 0; i < 100; ++i) loop.post([&] { ++ran; });  // its own posts pass the bound
  });
  for (int i = 0; i < 3; ++i) loop.post([] {});
  std::thread other([&] {
    for (int i = 0; i < 100; ++i) loop.post([&] { ++ran; });  // four tasks wait already
  });
  loop.start();
  other.join();
  loop.stop();
  EXPECT_EQ(ran, 200);
}

TEST(RealLoop, RunsOnTheCallersThread) {
  RealLoop loop;
  bool here = false;
  loop.post([&, caller = std::this_thread::get_id()] {
    here = std::this_thread::get_id() == caller && loop.on_loop();
    loop.stop();
  });
  loop.run_on_this_thread();
  EXPECT_TRUE(here);
  EXPECT_FALSE(loop.on_loop());
}

TEST(RealLoop, RunsADispatchedTaskOnTheCallersThreadWhileItsOwnSleeps) {
  RealLoop loop;
  loop.start();
  const auto caller = std::this_thread::get_id();
  // Now and then its thread is awake still, and then it runs the task.
  int here = 0;
  for (int round = 0; round < 1000 && here == 0; ++round) {
    std::promise<std::vector<std::thread::id>> ran;
    std::vector<std::thread::id> threads;
    loop.dispatch([&] {
      EXPECT_TRUE(loop.on_loop());
      threads.push_back(std::this_thread::get_id());
      loop.post([&] {  // what it posts to itself belongs to it
        threads.push_back(std::this_thread::get_id());
        ran.set_value(threads);
      });
    });
    const std::vector<std::thread::id> seen = get(ran.get_future());
    EXPECT_EQ(seen[0], seen[1]);
    here += seen[0] == caller;
  }
  EXPECT_GT(here, 0);
  EXPECT_FALSE(loop.on_loop());
  loop.stop();
  loop.dispatch([] { FAIL() << "the loop has ended"; });
}

TEST(RealLoop, LeavesLongWorkAndTheTasksOfOthersToItsOwnThread) {
  RealLoop loop;
  loop.start();
  const auto caller = std::this_thread::get_id();
  bool dispatched_here = false;
  for (int round = 0; round < 1000 && !dispatched_here; ++round) {
    std::promise<void> all_ran;
    int chain = 0;
    bool last_here = false, foreign_here = false;
    std::function<void()> next = [&] {
      last_here = std::this_thread::get_id() == caller;
      if (++chain < 1000)
        loop.post(next);
      else
        all_ran.set_value();
    };
    loop.dispatch([&] {
      dispatched_here = std::this_thread::get_id() == caller;
      std::thread([&] {
        loop.post([&] { foreign_here = std::this_thread::get_id() == caller; });
      }).join();
      loop.post(next);
    });
    get(all_ran.get_future());
    EXPECT_FALSE(foreign_here);
    EXPECT_FALSE(dispatched_here && last_here) << "a guest ran a thousand turns";
  }
  EXPECT_TRUE(dispatched_here);
  loop.stop();
}

TEST(RealLoop, WakesForATimerThatAGuestArms) {
  RealLoop loop;
  loop.start();
  for (int round = 0; round < 20; ++round) {
    std::promise<void> fired;
    TimerHandle timer, late;
    loop.dispatch([&] {
      late = loop.after(seconds(600), [] { FAIL(); });
      timer = loop.after(Duration(round * 50'000), [&] { fired.set_value(); });
    });
    get(fired.get_future());
    std::promise<void> cancelled;
    loop.dispatch([&] {
      late.cancel();
      cancelled.set_value();
    });
    get(cancelled.get_future());
  }
  loop.stop();
}

TEST(RealLoop, IsOneAtATimeAndKeepsTheOrderOfEachThread) {
  constexpr int kThreads = 4, kTasks = 5000;
  RealLoop loop;
  loop.start();
  std::atomic<int> inside{0};
  int ran = 0, timers = 0;
  std::vector<int> last(kThreads, -1);
  std::vector<TimerHandle> handles;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < kTasks; ++i) {
        const auto task = [&, t, i] {
          EXPECT_EQ(inside.fetch_add(1), 0);
          EXPECT_EQ(last[static_cast<std::size_t>(t)] + 1, i);
          last[static_cast<std::size_t>(t)] = i;
          if (i % 100 == 0)
            handles.push_back(loop.after(Duration(i % 700 * 1000), [&] { ++timers; }));
          if (i % 3 == 0) loop.post([&] { ++ran; });
          ++ran;
          inside.fetch_sub(1);
        };
        if ((t + i) % 2 == 0)
          loop.dispatch(task);
        else
          loop.post(task);
      }
    });
  for (std::thread& thread : threads) thread.join();
  std::promise<void> last_timer;
  TimerHandle handle;
  loop.post([&] { handle = loop.after(milliseconds(1), [&] { last_timer.set_value(); }); });
  get(last_timer.get_future());
  loop.stop();
  EXPECT_EQ(timers, kThreads * kTasks / 100);
  EXPECT_EQ(ran, kThreads * (kTasks + (kTasks + 2) / 3));
}

TEST(ManualLoop, StopsAtEveryTimer) {
  ManualLoop loop;
  std::vector<std::int64_t> at;
  std::vector<TimerHandle> handles;
  const auto note = [&] { at.push_back(loop.now().time_since_epoch().count() / 1'000'000); };
  handles.push_back(loop.after(milliseconds(5), [&] {
    note();
    handles.push_back(loop.after(milliseconds(2), note));
  }));
  handles.push_back(loop.after(milliseconds(20), note));
  loop.advance(milliseconds(10));
  EXPECT_EQ(at, (std::vector<std::int64_t>{5, 7}));
  EXPECT_EQ(loop.unix_milliseconds(), ManualLoop::kStartUnixMs + 10);
}

TEST(TimerQueue, SweepsCancelledEntries) {
  TimerQueue queue;
  auto witness = std::make_shared<int>(0);
  for (int i = 0; i < 10'000; ++i) {
    TimerHandle handle = queue.add(Instant(seconds(600)), [witness] {});
  }
  EXPECT_LE(queue.size(), 64u);
  EXPECT_LE(witness.use_count(), 65);
}

TEST(SystemRandom, FillsLongSpansDifferently) {
  SystemRandom random;
  std::vector<std::byte> a(1000), b(1000);
  random.fill(a);
  random.fill(b);
  EXPECT_NE(a, b);
  EXPECT_NE(std::vector(a.begin() + 900, a.end()), std::vector<std::byte>(100));
}

TEST(TextEvents, WritesTextAndJsonAndFilters) {
  const std::string path =
      (std::filesystem::temp_directory_path() / fmt::format("mesh_events_{}", ::getpid())).string();
  ManualLoop clock;
  clock.advance(milliseconds(123));
  for (const auto format : {TextEvents::Format::kText, TextEvents::Format::kJson}) {
    auto events = TextEvents::open({path, format, Level::kInfo}, clock);
    ASSERT_TRUE(events.ok());
    (*events)->debug("not.shown");
    (*events)->info("stage.joined", {{"peer", "a b"}, {"layers", 4}});
    (*events)->warn("odd", {{"time", "x\n\"\xFF\xC3\xA9"}});
  }
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  const std::string lines = text.str();
  EXPECT_EQ(lines.substr(0, lines.find('\n')),
            "2026-01-01T00:00:00.123Z info stage.joined peer=\"a b\" layers=4");
  EXPECT_NE(lines.find("{\"time\":\"2026-01-01T00:00:00.123Z\",\"level\":\"info\",\"event\":"
                       "\"stage.joined\",\"peer\":\"a b\",\"layers\":\"4\"}\n"),
            std::string::npos);
  EXPECT_NE(lines.find("\"time_\":\"x\\n\\\"\\ufffd\xC3\xA9\"}\n"), std::string::npos);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 4);
}

TEST(TextEvents, NamesTheFileItCannotOpen) {
  ManualLoop clock;
  auto events = TextEvents::open({"/nonexistent/dir/log", {}, Level::kInfo}, clock);
  ASSERT_FALSE(events.ok());
  EXPECT_EQ(events.error().message,
            "cannot open the log file /nonexistent/dir/log: No such file or directory");
  EXPECT_FALSE(parse_level("loud").ok());
  EXPECT_EQ(*parse_level("warn"), Level::kWarn);
}

TEST(BlockingPool, RefusesBeyondItsQueue) {
  BlockingPool pool(1, 2);
  std::promise<void> started, release;
  std::shared_future<void> gate(release.get_future());
  ASSERT_TRUE(pool.submit([&] {
                    started.set_value();
                    gate.wait();
                  })
                  .ok());
  get(started.get_future());
  std::promise<void> last;
  ASSERT_TRUE(pool.submit([] {}).ok());
  ASSERT_TRUE(pool.submit([&] { last.set_value(); }).ok());
  const auto refused = pool.submit([] {});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  release.set_value();
  get(last.get_future());
  pool.stop();
  EXPECT_EQ(pool.submit([] {}).error().code, Code::kCancelled);
}

}  // namespace
}  // namespace mesh::env
