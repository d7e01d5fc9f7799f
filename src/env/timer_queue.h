#pragma once
// Armed timers in the order in which they fire. No clock of its own: RealLoop and ManualLoop drive
// it.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "env/env.h"

namespace mesh::env {

// Not thread-safe. Cancelled entries are dropped when they reach the front, and swept when they
// could make up half of the queue, so that a cancelled long deadline does not keep its callback
// alive.
class TimerQueue {
 public:
  [[nodiscard]] TimerHandle add(Instant due, std::function<void()> callback) {
    if (entries_.size() >= sweep_at_) sweep();
    auto armed = std::make_shared<bool>(true);
    entries_.push_back(Entry{due, next_++, armed, std::move(callback)});
    std::push_heap(entries_.begin(), entries_.end(), Later{});
    return TimerHandle(std::move(armed));
  }
  // When the next timer fires; nothing when none is armed.
  std::optional<Instant> next_due() {
    while (!entries_.empty() && !*entries_.front().armed) pop();
    if (entries_.empty()) return std::nullopt;
    return entries_.front().due;
  }
  // Callback of the first timer due at `now`, disarmed; nothing when none is due.
  std::function<void()> take_due(Instant now) {
    const std::optional<Instant> due = next_due();
    if (!due || *due > now) return nullptr;
    Entry entry = pop();
    *entry.armed = false;
    return std::move(entry.callback);
  }
  std::size_t size() const { return entries_.size(); }  // cancelled ones included
  void clear() { entries_.clear(); }

 private:
  struct Entry {
    Instant due;
    std::uint64_t order;
    std::shared_ptr<bool> armed;
    std::function<void()> callback;
  };
  struct Later {
    bool operator()(const Entry& a, const Entry& b) const {
      return a.due != b.due ? a.due > b.due : a.order > b.order;
    }
  };
  Entry pop() {
    std::pop_heap(entries_.begin(), entries_.end(), Later{});
    Entry entry = std::move(entries_.back());
    entries_.pop_back();
    return entry;
  }
  void sweep() {
    std::erase_if(entries_, [](const Entry& entry) { return !*entry.armed; });
    std::make_heap(entries_.begin(), entries_.end(), Later{});
    sweep_at_ = std::max<std::size_t>(64, entries_.size() * 2);
  }

  std::vector<Entry> entries_;
  std::size_t sweep_at_ = 64;
  std::uint64_t next_ = 0;
};

}  // namespace mesh::env
