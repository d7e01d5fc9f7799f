#include "sim/world.h"

#include <algorithm>

namespace mesh::sim {

void World::at(Instant when, std::function<void()> callback) {
  heap_.push_back({std::max(when, now_), sequence_++, std::move(callback)});
  std::push_heap(heap_.begin(), heap_.end());
}

void World::run_one() {
  std::pop_heap(heap_.begin(), heap_.end());
  Event event = std::move(heap_.back());
  heap_.pop_back();
  now_ = event.when;
  ++events_;
  event.callback();
}

void World::run_until(Instant end) {
  while (!heap_.empty() && heap_.front().when <= end) run_one();
  now_ = std::max(now_, end);
}

bool World::run_until(const std::function<bool()>& done, Instant limit) {
  if (done()) return true;
  while (!heap_.empty() && heap_.front().when <= limit) {
    run_one();
    if (done()) return true;
  }
  now_ = std::max(now_, limit);
  return false;
}

}  // namespace mesh::sim
