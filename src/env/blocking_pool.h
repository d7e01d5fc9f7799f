#pragma once
// A few threads for what may block: files, tokenising, templates.

#include <functional>
#include <memory>

#include "base/result.h"

namespace mesh::env {

// Jobs start in the order submitted, on any of the threads; they report back with Loop::post. A
// job that throws is our bug.
class BlockingPool {
 public:
  // jobs_max 0: limits::kBlockingJobs waiting, running ones not counted.
  explicit BlockingPool(int threads, std::size_t jobs_max = 0);
  ~BlockingPool();  // stop()
  BlockingPool(const BlockingPool&) = delete;
  BlockingPool& operator=(const BlockingPool&) = delete;

  // Thread-safe, never blocks. Errors: resource_exhausted when the queue is full, cancelled after
  // stop().
  Result<void> submit(std::function<void()> job);
  // Drops the jobs that have not started, waits for those that have. Not from a job.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh::env
