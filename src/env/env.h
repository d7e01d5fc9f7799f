#pragma once
// The outside world as one struct. Decision code sees only these interfaces; production wires real
// ones (env/real_loop.h, net/), simulation its own (sim/), and both run the same code.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "base/events.h"
#include "base/metrics.h"
#include "base/time.h"
#include "env/transport.h"

namespace mesh::env {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic; constant within one turn of the control loop.
  virtual Instant now() const = 0;
  // Wall time for certificates, logs and API fields; may jump.
  virtual std::int64_t unix_milliseconds() const = 0;
};

// Cancels its timer when destroyed. Move-only. Belongs to the control loop.
class TimerHandle {
 public:
  TimerHandle() = default;
  explicit TimerHandle(std::shared_ptr<bool> armed) : armed_(std::move(armed)) {}
  TimerHandle(TimerHandle&& other) noexcept = default;
  TimerHandle& operator=(TimerHandle&& other) noexcept {
    cancel();
    armed_ = std::move(other.armed_);
    return *this;
  }
  ~TimerHandle() { cancel(); }
  void cancel() {
    if (armed_) *armed_ = false;
    armed_.reset();
  }
  bool armed() const { return armed_ && *armed_; }

 private:
  std::shared_ptr<bool>
      armed_;  // shared with the timer queue, which skips entries that are no longer armed
};

// Callbacks run on the control loop. Call from the control loop only.
class Timers {
 public:
  virtual ~Timers() = default;
  [[nodiscard]] virtual TimerHandle after(Duration delay, std::function<void()> callback) = 0;
};

// The control loop: runs tasks one after another in the order they were posted.
class Loop {
 public:
  virtual ~Loop() = default;
  // Thread-safe. Bounded by limits::kLoopTasks; beyond it the caller blocks (other threads) — the
  // loop never does.
  virtual void post(std::function<void()> task) = 0;
  // Thread-safe, for a thread that has news for the loop and nothing better to do: it may run the
  // task itself, before this returns, when the loop would otherwise have to be woken for it.
  // Nothing that the task may wait for or lock is held by the caller.
  virtual void dispatch(std::function<void()> task) { post(std::move(task)); }
};

// Unpredictable bytes (keys, ids, seeds); deterministic in simulation.
class Random {
 public:
  virtual ~Random() = default;
  virtual void fill(std::span<std::byte> out) = 0;
  std::uint64_t next_u64() {
    std::uint64_t value = 0;
    fill(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
};

struct Env {
  Clock& clock;
  Timers& timers;
  Loop& loop;
  Random& random;
  Transport& transport;
  Events& events;
  metrics::Registry& metrics;  // of the node
};

}  // namespace mesh::env
