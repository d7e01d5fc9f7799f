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

// A step's end or a frame gives rise to two or three. More is for the loop's own thread: a guest
// has work of its own.
constexpr int kGuestTurns = 16;

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
      started.store(true);
      become(Holder::kThread);
    }
    while (turn()) {
    }
    timers.clear();
    std::deque<std::function<void()>> dropped;
    {
      std::lock_guard lock(mutex);
      become(Holder::kNobody);
      started.store(false);
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
      task = take();
    }
    task();
    return true;
  }

  bool fire_timer() {
    const std::function<void()> callback = timers.take_due(now.load());
    if (callback) callback();
    return callback != nullptr;
  }

  std::function<void()> take() {
    std::function<void()> task = std::move(tasks.front());
    tasks.pop_front();
    if (waiting_posters > 0) room.notify_one();
    return task;
  }

  // Sleeps until there is something to do; a guest may be the loop meanwhile.
  void wait(std::unique_lock<std::mutex>& lock) {
    const std::optional<Instant> due = timers.next_due();
    sleeps_until = due.value_or(Instant::max());
    called = false;
    become(Holder::kNobody);
    const auto free = [this] { return holder == Holder::kNobody; };
    const auto woken = [&] { return free() && (called || stopping || !tasks.empty()); };
    if (!due) {
      ready.wait(lock, woken);
    } else if (!ready.wait_until(lock, to_steady(*due), woken)) {
      called = true;  // no guest from here on
      ready.wait(lock, free);
    }
    become(Holder::kThread);
  }

  // --- a guest: a thread that dispatches

  bool enter() {
    if (holder != Holder::kNobody || !running || stopping || called || !tasks.empty()) return false;
    become(Holder::kGuest);
    follow_ups = 0;
    return true;
  }

  void run_as_guest(std::function<void()> task) {
    for (int turns = 1;; ++turns) {
      now.store(read_clock());
      task();
      task = nullptr;  // what it captured goes while this thread is the loop
      std::unique_lock lock(mutex);
      if (follow_ups > 0 && turns < kGuestTurns) {
        --follow_ups;
        task = take();
        continue;
      }
      const std::optional<Instant> due = timers.next_due();
      become(Holder::kNobody);
      called = called || stopping || !tasks.empty() || (due && *due < sleeps_until);
      const bool wake = called;
      lock.unlock();
      if (wake) ready.notify_one();
      return;
    }
  }

  enum class Holder { kNobody, kThread, kGuest };
  void become(Holder who) {
    holder = who;
    owner.store(who == Holder::kNobody ? std::thread::id() : std::this_thread::get_id());
  }
  bool on_loop() const { return owner.load() == std::this_thread::get_id(); }

  const std::size_t tasks_max;
  std::mutex mutex;
  std::condition_variable ready;     // something to do for the loop's thread
  std::condition_variable room;      // a task left, or the end
  std::condition_variable finished;  // the loop has ended
  std::deque<std::function<void()>> tasks;
  std::size_t waiting_posters = 0;
  bool running = false, stopping = false, ended = false;
  Holder holder = Holder::kNobody;  // who is the loop
  Instant sleeps_until;             // the loop's thread
  bool called = false;              // the loop's thread shall wake
  std::size_t follow_ups = 0;       // of `tasks`, from the front: the guest's own
  std::atomic<bool> started{false};
  std::atomic<std::thread::id> owner{};
  std::atomic<Instant> now{read_clock()};
  TimerQueue timers;      // of the loop
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
  if (impl.holder == Impl::Holder::kGuest && impl.on_loop() && impl.follow_ups == impl.tasks.size())
    ++impl.follow_ups;
  impl.tasks.push_back(std::move(task));
  // Who is the loop looks for tasks before it sleeps or leaves.
  if (impl.holder != Impl::Holder::kNobody) return;
  // The woken thread shall find the mutex free. A poster's loop outlives its call.
  lock.unlock();
  impl.ready.notify_one();
}

void RealLoop::dispatch(std::function<void()> task) {
  std::unique_lock lock(impl_->mutex);
  const bool entered = impl_->enter();
  lock.unlock();
  if (entered)
    impl_->run_as_guest(std::move(task));
  else
    post(std::move(task));
}

TimerHandle RealLoop::after(Duration delay, std::function<void()> callback) {
  MESH_CHECK(impl_->on_loop() || !impl_->started.load(), "a timer armed outside the control loop");
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
