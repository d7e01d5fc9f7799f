#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"
#include "base/limits.h"
#include "env/blocking_pool.h"

namespace mesh::env {

struct BlockingPool::Impl {
  explicit Impl(std::size_t capacity) : jobs_max(capacity) {}

  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      ready.wait(lock, [this] { return stopping || !jobs.empty(); });
      if (stopping) return;
      std::function<void()> job = std::move(jobs.front());
      jobs.pop_front();
      lock.unlock();
      job();
      job = nullptr;  // what it captured goes before the lock is taken again
      lock.lock();
    }
  }

  const std::size_t jobs_max;
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<std::function<void()>> jobs;
  bool stopping = false;
  std::vector<std::thread> threads;
};

BlockingPool::BlockingPool(int threads, std::size_t jobs_max)
    : impl_(std::make_unique<Impl>(jobs_max == 0 ? limits::kBlockingJobs : jobs_max)) {
  MESH_CHECK(threads > 0, "{} threads", threads);
  for (int i = 0; i < threads; ++i)
    impl_->threads.emplace_back([impl = impl_.get()] { impl->work(); });
}

BlockingPool::~BlockingPool() {
  stop();
}

Result<void> BlockingPool::submit(std::function<void()> job) {
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->stopping) return Error(Code::kCancelled, "this node is shutting down");
    if (impl_->jobs.size() >= impl_->jobs_max)
      return Error(
          Code::kResourceExhausted,
          fmt::format("{} jobs are already waiting for files and text work", impl_->jobs.size()),
          true);
    impl_->jobs.push_back(std::move(job));
  }
  impl_->ready.notify_one();
  return {};
}

void BlockingPool::stop() {
  std::deque<std::function<void()>> dropped;
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
    dropped.swap(impl_->jobs);
    threads.swap(impl_->threads);
  }
  impl_->ready.notify_all();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace mesh::env
