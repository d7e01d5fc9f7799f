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
#endif
}
}  // namespace

// A generation number starts a job; workers claim parts from `next`, the caller helps, then waits
// for `busy` to be 0.
struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<std::uint64_t> generation{0};
  std::atomic<bool> stop{false};
  std::atomic<int> next{0};
  std::atomic<int> busy{0};
  int parts = 0;
  const std::function<void(int, int)>* part = nullptr;

  void claim(int worker) {
    for (int i = next.fetch_add(1); i < parts; i = next.fetch_add(1)) (*part)(i, worker);
  }

  void loop(int worker) {
    std::uint64_t seen = 0;
    while (true) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen && !stop && spins < kSpins) {
        relax();
        ++spins;
      }
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return stop || generation.load() != seen; });
      }
      if (stop) return;
      seen = generation.load(std::memory_order_acquire);
      claim(worker);
      busy.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  MESH_CHECK(threads >= 1, "{} threads", threads);
  for (int worker = 1; worker < threads; ++worker)
    impl_->workers.emplace_back([this, worker] { impl_->loop(worker); });
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
  Impl& impl = *impl_;
  impl.parts = parts;
  impl.part = &part;
  impl.next.store(0);
  impl.busy.store(static_cast<int>(impl.workers.size()));
  {
    std::lock_guard lock(impl.mutex);
    impl.generation.fetch_add(1, std::memory_order_release);
  }
  impl.wake.notify_all();
  impl.claim(0);
  for (int spins = 0; impl.busy.load(std::memory_order_acquire) != 0; ++spins) {
    relax();
    if (spins > kSpins) std::this_thread::yield();
  }
}

}  // namespace mesh
