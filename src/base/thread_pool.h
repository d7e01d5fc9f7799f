#pragma once
// Fork-join pool for kernels of one device.

#include <functional>
#include <memory>

namespace mesh {

// `threads` workers in all, the caller included. run() blocks until every part is done; parts are
// claimed in ascending order, and which thread computes which part must never matter to the result
// (design: bits do not depend on the thread count). One caller at a time. Workers spin briefly,
// then sleep.
class ThreadPool {
 public:
  // Each worker but the caller calls `settle` with its number before anything else.
  explicit ThreadPool(int threads, const std::function<void(int worker)>& settle = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  // Calls part(i, worker) for i in [0, parts), worker in [0, threads()).
  void run(int parts, const std::function<void(int part, int worker)>& part);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mesh
