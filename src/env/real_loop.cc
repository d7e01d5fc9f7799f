#include "env/real_loop.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/limits.h"
#include "env/timer_queue.h"

namespace mesh::env {
namespace {

Instant read_clock() {
  return Instant(
      std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()));
}

std::chrono::steady_clock::time_point to_steady(Instant instant) {
  return std::chrono::steady_clock::time_point(
      std::chrono::duration_cast<std::chrono::steady_clock::duration>(instant.time_since_epoch()));
}

}  // namespace

struct RealLoop::Impl {
  explicit Impl(std::size_t capacity) : tasks_max(capacity) {}

  void run() {
    {
      std::lock_guard lock(mutex);
      MESH_CHECK(!running && !ended, "a loop runs once");
      running = true;
      owner.store(std::this_thread::get_id());
    }
    while (turn()) {
    }
    timers.clear();
    owner.store(std::thread::id());
    std::deque<std::function<void()>> dropped;
    {
      std::lock_guard lock(mutex);
      ended = true;
      running = false;
      dropped.swap(tasks);
    }
    room.notify_all();
    finished.notify_all();
  }

  // Runs a due timer and a task, or waits for one; false when the loop is to end.
  bool turn() {
    now.store(read_clock());
    const bool fired = !draining && fire_timer();
    if (fired) now.store(read_clock());
    std::function<void()> task;
    {
      std::unique_lock lock(mutex);
      draining = stopping;
      if (tasks.empty()) {
        if (draining) return false;
        if (!fired) wait(lock);
        return true;
      }
      task = std::move(tasks.front());
      tasks.pop_front();
      if (waiting_posters > 0) room.notify_one();
    }
    task();
    return true;
  }

  bool fire_timer() {
    const std::function<void()> callback = timers.take_due(now.load());
    if (callback) callback();
    return callback != nullptr;
  }

  void wait(std::unique_lock<std::mutex>& lock) {
    const std::optional<Instant> due = timers.next_due();
    const auto woken = [this] { return stopping || !tasks.empty(); };
    if (due)
      ready.wait_until(lock, to_steady(*due), woken);
    else
      ready.wait(lock, woken);
  }

  bool on_loop() const { return owner.load() == std::this_thread::get_id(); }

  const std::size_t tasks_max;
  std::mutex mutex;
  std::condition_variable ready;     // a task came, or stop
  std::condition_variable room;      // a task left, or the end
  std::condition_variable finished;  // the loop has ended
  std::deque<std::function<void()>> tasks;
  std::size_t waiting_posters = 0;
  bool running = false, stopping = false, ended = false;
  std::atomic<std::thread::id> owner{};
  std::atomic<Instant> now{read_clock()};
  TimerQueue timers;      // loop thread
  bool draining = false;  // loop thread's copy of stopping
  std::thread thread;
};

RealLoop::RealLoop(std::size_t tasks_max)
    : impl_(std::make_unique<Impl>(tasks_max == 0 ? limits::kLoopTasks : tasks_max)) {}

RealLoop::~RealLoop() {
  MESH_CHECK(!impl_->on_loop(), "a loop cannot be destroyed by one of its own tasks");
  stop();
}

void RealLoop::start() {
  std::lock_guard lock(impl_->mutex);
  MESH_CHECK(!impl_->thread.joinable() && !impl_->running, "start() of a loop that runs");
  if (impl_->stopping) return;
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

void RealLoop::run_on_this_thread() {
  impl_->run();
}

void RealLoop::stop() {
  std::thread thread;
  {
    std::unique_lock lock(impl_->mutex);
    impl_->stopping = true;
    impl_->ready.notify_all();
    if (impl_->on_loop()) return;
    thread.swap(impl_->thread);
    if (!thread.joinable()) impl_->finished.wait(lock, [this] { return !impl_->running; });
    impl_->room.notify_all();
  }
  if (thread.joinable()) thread.join();
}

bool RealLoop::on_loop() const {
  return impl_->on_loop();
}

void RealLoop::post(std::function<void()> task) {
  Impl& impl = *impl_;
  std::unique_lock lock(impl.mutex);
  if (!impl.on_loop()) {
    ++impl.waiting_posters;
    impl.room.wait(lock, [&] {
      return impl.tasks.size() < impl.tasks_max || impl.ended || (impl.stopping && !impl.running);
    });
    --impl.waiting_posters;
  }
  if (impl.ended) return;
  impl.tasks.push_back(std::move(task));
  // The woken thread shall find the mutex free. A poster's loop outlives its call.
  lock.unlock();
  impl.ready.notify_one();
}

TimerHandle RealLoop::after(Duration delay, std::function<void()> callback) {
  MESH_CHECK(impl_->on_loop() || impl_->owner.load() == std::thread::id(),
             "a timer armed outside the control loop");
  return impl_->timers.add(now() + std::max(delay, Duration::zero()), std::move(callback));
}

Instant RealLoop::now() const {
  return impl_->on_loop() ? impl_->now.load() : read_clock();
}

std::int64_t RealLoop::unix_milliseconds() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace mesh::env
