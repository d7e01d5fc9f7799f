#pragma once
// The control loop of a real process: a thread, a bounded task queue, timers, the system's clocks.

#include <cstdint>
#include <functional>
#include <memory>

#include "env/env.h"

namespace mesh::env {

// Turn = one task or one timer callback; now() does not move within it. Posted tasks run in the
// order posted; due timers run in the order (due time, time of arming), one between two tasks, so
// that neither starves the other. At any time one thread at most is the loop: its own, or one that
// dispatches a task while its own sleeps. The latter runs that task and what the loop posts to
// itself meanwhile, a few turns at most, and nothing that others posted: so only tasks of the loop
// itself ever run on a thread that they do not expect.
//
// Threads: post(), dispatch(), unix_milliseconds(), start() and stop() from any thread; after() and
// now() from the loop, or from the constructing thread before the loop runs. post() by another
// thread blocks while limits::kLoopTasks tasks wait; by the loop itself never. A task that throws
// is our bug.
class RealLoop final : public Loop, public Timers, public Clock {
 public:
  explicit RealLoop(std::size_t tasks_max = 0);  // 0: limits::kLoopTasks
  ~RealLoop() override;                          // stop(); not on the loop itself
  RealLoop(const RealLoop&) = delete;
  RealLoop& operator=(const RealLoop&) = delete;

  // Runs the loop on a thread of its own. Once in a lifetime, instead of run_on_this_thread().
  void start();
  // Runs the loop on the calling thread until stop().
  void run_on_this_thread();
  // Runs what is already posted (and what that posts), then ends the loop and waits for its end;
  // called on the loop it only asks. Timers that are not due are dropped, later posts ignored.
  void stop();
  bool on_loop() const;  // the caller is the loop at this moment

  void post(std::function<void()> task) override;
  void dispatch(std::function<void()> task) override;
  [[nodiscard]] TimerHandle after(Duration delay, std::function<void()> callback) override;
  Instant now() const override;
  std::int64_t unix_milliseconds() const override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::env
