#pragma once
// A loop that a test drives by hand: time moves only when told to.

#include <cstdint>
#include <deque>
#include <functional>

#include "env/env.h"
#include "env/timer_queue.h"

namespace mesh::env {

// Single-threaded. Starts at Instant zero and 2026-01-01T00:00:00Z.
class ManualLoop final : public Loop, public Timers, public Clock {
 public:
  void post(std::function<void()> task) override { tasks_.push_back(std::move(task)); }
  [[nodiscard]] TimerHandle after(Duration delay, std::function<void()> callback) override {
    return timers_.add(now_ + delay, std::move(callback));
  }
  Instant now() const override { return now_; }
  std::int64_t unix_milliseconds() const override {
    return kStartUnixMs + now_.time_since_epoch().count() / 1'000'000;
  }

  // Runs due timers and posted tasks until neither is left, without moving time; true when it ran
  // any.
  bool run_ready() {
    bool any = false;
    for (;; any = true) {
      if (std::function<void()> callback = timers_.take_due(now_)) {
        callback();
      } else if (!tasks_.empty()) {
        const std::function<void()> task = std::move(tasks_.front());
        tasks_.pop_front();
        task();
      } else {
        return any;
      }
    }
  }
  // Moves time forward by `step`, stopping at every timer on the way.
  void advance(Duration step) {
    const Instant end = now_ + step;
    run_ready();
    for (auto due = timers_.next_due(); due && *due <= end; due = timers_.next_due()) {
      now_ = *due;
      run_ready();
    }
    now_ = end;
  }

  static constexpr std::int64_t kStartUnixMs = 1'767'225'600'000;

 private:
  Instant now_{};
  TimerQueue timers_;
  std::deque<std::function<void()>> tasks_;
};

}  // namespace mesh::env
