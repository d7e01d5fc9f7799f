#include "base/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"

namespace mesh {
namespace {
// Long enough to bridge the gap between two operators of a step, short enough to leave an idle core
// alone.
constexpr int kSpins = 2000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A job and the next of its parts in one word, so that a claim is valid or not by itself: a worker
// that comes late takes a part of whatever job runs now, or none.
using Ticket = std::uint64_t;
constexpr int kPartBits = 20;
constexpr Ticket kPartMask = (Ticket{1} << kPartBits) - 1;
constexpr int kPartsMost = 1 << (kPartBits - 1);  // claims in vain count on behind the last part

constexpr Ticket ticket(std::uint64_t generation, int parts) {
  return generation << (2 * kPartBits) | static_cast<Ticket>(parts) << kPartBits;
}
constexpr int next_part(Ticket t) {
  return static_cast<int>(t & kPartMask);
}
constexpr int parts_of(Ticket t) {
  return static_cast<int>(t >> kPartBits & kPartMask);
}
constexpr std::uint64_t generation_of(Ticket t) {
  return t >> (2 * kPartBits);
}
}  // namespace

// The caller waits for parts, not for workers: one whose core is taken by another program holds
// nobody up unless it is in the middle of a part. And it waits asleep after a while: an idle core
// is where the system moves a worker that has none.
struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<Ticket> tickets{0};
  std::atomic<bool> stop{false};
  std::atomic<int> done{0};  // parts of the running job; it cannot end before they are all counted
  const std::function<void(int, int)>* part = nullptr;

  void claim(int worker) {
    for (Ticket t = tickets.fetch_add(1, std::memory_order_acq_rel); next_part(t) < parts_of(t);
         t = tickets.fetch_add(1, std::memory_order_acq_rel)) {
      (*part)(next_part(t), worker);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == parts_of(t)) done.notify_one();
    }
  }

  std::uint64_t generation() const {
    return generation_of(tickets.load(std::memory_order_acquire));
  }

  void loop(int worker) {
    std::uint64_t seen = 0;
    while (true) {
      for (int spins = 0; generation() == seen && !stop && spins < kSpins; ++spins) relax();
      if (generation() == seen) {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return stop || generation() != seen; });
      }
      if (stop) return;
      seen = generation();
      claim(worker);
    }
  }

  void wait_for(int parts) {
    int count = done.load(std::memory_order_acquire);
    for (int spins = 0; count != parts; ++spins) {
      if (spins < kSpins)
        relax();
      else
        done.wait(count, std::memory_order_acquire);
      count = done.load(std::memory_order_acquire);
    }
  }
};

ThreadPool::ThreadPool(int threads, const std::function<void(int)>& settle)
    : impl_(std::make_unique<Impl>()) {
  MESH_CHECK(threads >= 1, "{} threads", threads);
  for (int worker = 1; worker < threads; ++worker)
    impl_->workers.emplace_back([this, worker, settle] {
      if (settle) settle(worker);
      impl_->loop(worker);
    });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_all();
  for (std::thread& worker : impl_->workers) worker.join();
}

int ThreadPool::threads() const {
  return static_cast<int>(impl_->workers.size()) + 1;
}

void ThreadPool::run(int parts, const std::function<void(int, int)>& part) {
  if (parts <= 0) return;
  if (parts == 1 || impl_->workers.empty()) {
    for (int i = 0; i < parts; ++i) part(i, 0);
    return;
  }
  MESH_CHECK(parts <= kPartsMost, "{} parts", parts);
  Impl& impl = *impl_;
  impl.part = &part;
  impl.done.store(0, std::memory_order_relaxed);
  {
    std::lock_guard lock(impl.mutex);
    impl.tickets.store(ticket(impl.generation() + 1, parts), std::memory_order_release);
  }
  impl.wake.notify_all();
  impl.claim(0);
  impl.wait_for(parts);
}

}  // namespace mesh
