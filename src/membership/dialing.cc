#include "base/limits.h"
#include "membership/membership.h"

// Whom to dial and when: seeds for ever, known members while they are not linked.

namespace mesh::membership {

void Membership::schedule_member(Instant now, PeerId peer) {
  Redial& redial = redials_[peer];
  redial.in_flight = false;
  redial.back_off = Duration{};
  redial.next = config_.self < peer ? now : now + limits::kRedialYield;
}

void Membership::fail(Instant now, Redial& redial) {
  redial.in_flight = false;
  redial.back_off = redial.back_off == Duration{}
                        ? limits::kRedialMin
                        : std::min<Duration>(redial.back_off * 2, limits::kRedialMax);
  const double spread = jitter_.range(0.75, 1.25);
  redial.next =
      now +
      Duration(static_cast<std::int64_t>(static_cast<double>(redial.back_off.count()) * spread));
}

void Membership::hold_back(Instant now, PeerId peer, bool refused) {
  const auto wait = [&](Redial& redial) {
    if (refused) redial.back_off = limits::kRedialMax;
    fail(now, redial);
  };
  // Strangers leave no trace: anybody can make ids.
  if (members_.count(peer) != 0) wait(redials_[peer]);
  for (auto& [address, redial] : seeds_)
    if (const auto it = seed_peer_.find(address); it != seed_peer_.end() && it->second == peer)
      wait(redial);
}

void Membership::dial_done(const env::Address& address, bool ok, Instant now) {
  const auto done = [&](Redial& redial) {
    if (!redial.in_flight || redial.dialled != address) return;
    redial.in_flight = false;
    if (!ok) fail(now, redial);
  };
  for (auto& [seed, redial] : seeds_) done(redial);
  for (auto& [peer, redial] : redials_) done(redial);
}

Actions Membership::dial_failed(Instant now, const env::Address& address, const Error&) {
  turn(now);
  dial_done(address, false, now);
  return {};
}

bool Membership::in_flight(const env::Address& address) const {
  for (const auto& [seed, redial] : seeds_)
    if (redial.in_flight && redial.dialled == address) return true;
  for (const auto& [peer, redial] : redials_)
    if (redial.in_flight && redial.dialled == address) return true;
  return false;
}

// Whether the node behind a seed address is linked, or is this one.
bool Membership::satisfied(const env::Address& seed) const {
  if (const auto it = seed_peer_.find(seed); it != seed_peer_.end())
    return it->second == config_.self || links_.count(it->second) != 0;
  const std::string text = seed.to_string();
  for (const auto& [peer, link] : links_) {
    if (link.info.outbound && link.info.remote == seed) return true;
    const auto member = members_.find(peer);
    if (member == members_.end()) continue;
    for (const std::string& address : member->second.record.addresses)
      if (address == text) return true;
  }
  return false;
}

bool Membership::wants_dial(PeerId peer) const {
  const auto member = members_.find(peer);
  return member != members_.end() && links_.count(peer) == 0 &&
         !member->second.record.addresses.empty();
}

Instant Membership::due(const Redial& redial) {
  return redial.in_flight ? redial.started + 2 * limits::kDialDeadline : redial.next;
}

void Membership::attempt(Instant now, Redial& redial, const env::Address& address, Actions& out) {
  if (redial.in_flight) {  // the transport never told: count it as failed
    fail(now, redial);
    return;
  }
  if (in_flight(address)) {
    redial.next = now + limits::kDialDeadline;
    return;
  }
  redial.in_flight = true;
  redial.started = now;
  redial.dialled = address;
  out.dial.push_back(address);
}

void Membership::tick_dials(Instant now, Actions& out) {
  for (auto& [address, redial] : seeds_)
    if (!satisfied(address) && due(redial) <= now) attempt(now, redial, address, out);
  for (auto& [peer, redial] : redials_) {
    if (!wants_dial(peer) || due(redial) > now) continue;
    const auto& addresses = members_[peer].record.addresses;
    const auto address = env::Address::parse(addresses[redial.turn++ % addresses.size()]);
    if (address.ok())
      attempt(now, redial, *address, out);
    else
      fail(now, redial);
  }
}

Instant Membership::wake_at() const {
  if (!started_) return Instant{};
  if (!wake_) wake_ = next_due();
  return *wake_;
}

Instant Membership::next_due() const {
  Instant at = Instant::max();
  bool any = false;
  for (const auto& [peer, link] : links_) {
    at = std::min(at, link.accepted ? link.last_heard + limits::kSuspicion
                                    : link.since + limits::kHelloDeadline);
    any = any || link.accepted;
  }
  if (any) at = std::min(at, next_heartbeat_);
  for (const auto& [address, redial] : seeds_)
    if (!satisfied(address)) at = std::min(at, due(redial));
  for (const auto& [peer, redial] : redials_)
    if (wants_dial(peer)) at = std::min(at, due(redial));
  for (const auto& [peer, member] : members_)
    if (!member.alive && links_.count(peer) == 0)
      at = std::min(at, member.lost_since + limits::kLostRecords);
  return at;
}

}  // namespace mesh::membership
