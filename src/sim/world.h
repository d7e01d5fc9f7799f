#pragma once
// Virtual time: a heap of (time, sequence number) → callback. One thread, no real clock; the same
// seed gives the same run, which trace_hash() proves.

#include <cstdint>
#include <functional>
#include <queue>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/random.h"
#include "base/time.h"

namespace mesh::sim {

class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed) {}

  Instant now() const { return now_; }
  void at(Instant when, std::function<void()> callback);  // the past means now
  void after(Duration delay, std::function<void()> callback) {
    at(now_ + delay, std::move(callback));
  }

  // Runs everything due up to `end` and leaves the clock there.
  void run_until(Instant end);
  void run_for(Duration span) { run_until(now_ + span); }
  // Runs until `done` holds, checked after every event, or until `limit`; whether it holds.
  bool run_until(const std::function<bool()>& done, Instant limit);

  // Draws of the world itself: latencies, faults. Nodes have their own generators.
  Prng& random() { return random_; }
  // What happened, in order. Equal seeds, equal hashes.
  void trace(std::uint64_t value) { trace_.update_value(value); }
  void trace(std::string_view text) { trace_.update(text); }
  std::uint64_t trace_hash() const { return trace_.digest(); }
  std::uint64_t events() const { return events_; }

 private:
  struct Event {
    Instant when;
    std::uint64_t sequence;
    std::function<void()> callback;
    // std::priority_queue keeps the largest on top.
    friend bool operator<(const Event& a, const Event& b) {
      return a.when != b.when ? a.when > b.when : a.sequence > b.sequence;
    }
  };
  void run_one();

  Instant now_{};
  std::uint64_t sequence_ = 0;
  std::uint64_t events_ = 0;
  std::vector<Event> heap_;
  Prng random_;
  Hasher trace_;
};

}  // namespace mesh::sim
