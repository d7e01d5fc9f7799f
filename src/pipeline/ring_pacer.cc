#include "pipeline/ring_pacer.h"

#include <algorithm>
#include <cmath>

namespace mesh::pipeline {
namespace {

constexpr Duration kSpan = seconds(2);

}  // namespace

void RingPacer::sent(std::span<const SequenceId> batch, Instant now) {
  for (const SequenceId sequence : batch) dropped(sequence);
  const std::uint64_t number = departures_++;
  std::size_t rows = 0;
  for (const SequenceId sequence : batch) rows += out_.emplace(sequence, number).second ? 1 : 0;
  if (rows > 0) batches_[number] = {now, rows, rows};
}

void RingPacer::returned(SequenceId sequence, Instant now) {
  const auto at = out_.find(sequence);
  if (at == out_.end()) return;
  const Batch& batch = batches_.at(at->second);
  const Duration step = steps_.decode_step(batch.rows);
  if (batch.out == batch.rows && step > Duration::zero() && now >= batch.sent)
    learn(to_seconds(now - batch.sent) / to_seconds(step), now);
  leave(at);
}

void RingPacer::dropped(SequenceId sequence) {
  const auto at = out_.find(sequence);
  if (at != out_.end()) leave(at);
}

void RingPacer::leave(std::map<SequenceId, std::uint64_t>::iterator at) {
  const auto batch = batches_.find(at->second);
  if (--batch->second.out == 0) batches_.erase(batch);
  out_.erase(at);
}

void RingPacer::learn(double ratio, Instant now) {
  if (!present_ || now - span_began_ >= kSpan) {
    // After a pause the span before has nothing to say about now.
    before_ = present_ && now - span_began_ < 2 * kSpan ? present_ : std::nullopt;
    present_ = ratio;
    span_began_ = now;
    return;
  }
  present_ = std::min(*present_, ratio);
}

std::size_t RingPacer::batches(std::size_t running) const {
  if (!present_ || running <= 1) return 1;
  const double ratio = std::round(std::min(*present_, before_.value_or(*present_)));
  if (ratio >= static_cast<double>(running)) return running;
  return std::min(running, 1 + static_cast<std::size_t>(ratio));
}

std::size_t RingPacer::decode_cap(std::size_t running, std::size_t at_once) const {
  const std::size_t count = std::clamp<std::size_t>(at_once, 1, batches(running));
  return std::max<std::size_t>(1, (running + count - 1) / count);
}

}  // namespace mesh::pipeline
