#include "pipeline/admission.h"

#include <algorithm>

#include "base/random.h"

namespace mesh::pipeline {
namespace {

Duration longer(Duration pause) {
  return std::clamp(pause * 2, limits::kCapacityRetryMin, limits::kCapacityRetryMax);
}

// Up to a quarter more, so that entries which refuse each other fall out of step.
Duration spread(Duration pause, SequenceId id, std::uint32_t tries) {
  return pause + pause / 1024 * static_cast<std::int64_t>(splitmix64(id.value + tries) % 256);
}

}  // namespace

AdmissionActions Admission::step(Instant now, const AdmissionInput& input) {
  using Kind = AdmissionInput::Kind;
  AdmissionActions actions;
  const auto found = sequences_.find(input.sequence);
  if (input.kind == Kind::kArrived && found == sequences_.end()) {
    arrive(now, input.sequence, actions);
  } else if (input.kind != Kind::kTime && found != sequences_.end()) {
    const SequenceId id = found->first;
    Sequence& sequence = found->second;
    const State state = sequence.state;
    const bool held = state == State::kOpening || state == State::kRunning;
    switch (input.kind) {
      case Kind::kOpened:
        if (state != State::kOpening) break;
        leave(sequence);
        sequence.state = State::kRunning;
        window_ = std::min(window_ * 2, limits::kOpensAhead);
        pause_ = {};
        no_route_since_.reset();
        break;
      case Kind::kNoPages:
      case Kind::kNoRoute:
        if (held) refused(now, id, sequence, input.kind == Kind::kNoPages);
        break;
      case Kind::kExtendRefused:
        if (state == State::kRunning) extend_refused(now, id, sequence, input.sharing, actions);
        break;
      case Kind::kExtended:
        if (!sequence.starved) break;
        sequence.starved.reset();
        --starved_;
        break;
      case Kind::kAside:
        if (state == State::kAside) break;
        leave(sequence);
        sequence.state = State::kAside;
        ++aside_;
        if (held) pages_freed(now);
        break;
      case Kind::kBack:
        if (state == State::kAside) to_room(now, id, sequence);
        break;
      case Kind::kEnded:
        leave(sequence);
        sequences_.erase(found);
        if (held) pages_freed(now);
        break;
      case Kind::kTime:
      case Kind::kArrived:
        break;
    }
  }
  due(now, actions);
  return actions;
}

void Admission::arrive(Instant now, SequenceId id, AdmissionActions& actions) {
  if (waiting() >= max_waiting_) {
    actions.full.push_back(id);
    return;
  }
  Sequence& sequence = sequences_[id];
  sequence.order = next_order_++;
  sequence.since = now;
  room_[sequence.order] = id;
}

void Admission::refused(Instant now, SequenceId id, Sequence& sequence, bool pages) {
  const Instant since = sequence.since;
  to_room(now, id, sequence);
  sequence.since = since;
  ++sequence.tries;
  window_ = 1;
  if (pages) {
    no_route_since_.reset();
    // Several that were under way together count once.
    if (now >= open_at_) pause_ = longer(pause_);
    open_at_ = std::max(open_at_, now + spread(pause_, id, sequence.tries));
  } else {
    if (!no_route_since_) no_route_since_ = now;
    open_at_ = std::max(open_at_, now + limits::kRouteRetryPause);
  }
}

void Admission::extend_refused(Instant now, SequenceId id, Sequence& sequence,
                               const std::vector<SequenceId>& sharing, AdmissionActions& actions) {
  if (!sequence.starved) {
    sequence.starved = now;
    sequence.pause = {};
    ++starved_;
  }
  auto victim = sequences_.find(id);
  for (SequenceId other : sharing) {
    const auto at = sequences_.find(other);
    if (at == sequences_.end()) continue;
    const State state = at->second.state;
    if ((state == State::kOpening || state == State::kRunning) &&
        at->second.order > victim->second.order)
      victim = at;
  }
  const bool itself = victim->first == id;
  const bool patient = itself && now - *sequence.starved < limits::kExtendPatience;
  if (now >= settled_at_ && !patient) {
    actions.preempt.push_back(victim->first);
    to_room(now, victim->first, victim->second);
    settled_at_ = now + limits::kPreemptSettle;
    window_ = 1;
    pause_ = limits::kCapacityRetryMax;
    open_at_ = std::max(open_at_, now + spread(pause_, victim->first, victim->second.tries++));
    sequence.pause = {};
    if (itself) return;
  }
  sequence.pause = longer(sequence.pause);
  sequence.extend_at = now + spread(sequence.pause, id, sequence.tries++);
}

void Admission::to_room(Instant now, SequenceId id, Sequence& sequence) {
  leave(sequence);
  sequence.state = State::kWaiting;
  sequence.since = now;
  room_[sequence.order] = id;
}

// Takes it out of what counts it; the caller gives it its new state.
void Admission::leave(Sequence& sequence) {
  if (sequence.state == State::kWaiting) room_.erase(sequence.order);
  if (sequence.state == State::kOpening) --opening_;
  if (sequence.state == State::kAside) --aside_;
  if (sequence.starved) --starved_;
  sequence.starved.reset();
}

void Admission::pages_freed(Instant now) {
  if (!no_route_since_) open_at_ = std::min(open_at_, now);
  if (starved_ == 0) return;
  for (auto& [id, sequence] : sequences_)
    if (sequence.starved) sequence.extend_at = std::min(sequence.extend_at, now);
}

void Admission::due(Instant now, AdmissionActions& actions) {
  if (no_route_since_) {
    for (auto at = room_.begin(); at != room_.end();) {
      const SequenceId id = at->second;
      const Instant since = std::max(*no_route_since_, sequences_.at(id).since);
      ++at;
      if (now - since < limits::kRouteRetry) continue;
      actions.give_up.push_back(id);
      leave(sequences_.at(id));
      sequences_.erase(id);
    }
    // Those that come later start anew.
    if (room_.empty() && opening_ == 0) no_route_since_.reset();
  }
  if (starved_ > 0) {
    for (auto& [id, sequence] : sequences_)
      if (sequence.starved && sequence.extend_at <= now) {
        actions.extend.push_back(id);
        // Its answer sets the next time; the driver watches that there is one.
        sequence.extend_at = Instant::max();
      }
    return;
  }
  while (!room_.empty() && now >= open_at_ && opening_ < window_) {
    const SequenceId id = room_.begin()->second;
    room_.erase(room_.begin());
    sequences_.at(id).state = State::kOpening;
    ++opening_;
    actions.open.push_back(id);
  }
}

std::optional<Instant> Admission::wake_at() const {
  std::optional<Instant> out;
  const auto earlier = [&out](Instant at) { out = out ? std::min(*out, at) : at; };
  if (starved_ > 0) {
    for (const auto& [id, sequence] : sequences_)
      if (sequence.starved && sequence.extend_at != Instant::max()) earlier(sequence.extend_at);
  } else if (!room_.empty() && opening_ < window_) {
    earlier(open_at_);
  }
  if (no_route_since_)
    for (const auto& [order, id] : room_)
      earlier(std::max(*no_route_since_, sequences_.at(id).since) + limits::kRouteRetry);
  return out;
}

}  // namespace mesh::pipeline
