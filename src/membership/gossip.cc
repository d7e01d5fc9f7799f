#include "base/hash.h"
#include "base/limits.h"
#include "membership/membership.h"

// Records and plans: publish, adopt what is newer, forward it.

namespace mesh::membership {
namespace {

// What an owner signs: never bytes that could mean something elsewhere.
std::string signed_text(std::string_view record) {
  return "mesh/1 record\n" + std::string(record);
}

bool newer_record(const wire::NodeRecord& a, const wire::NodeRecord& b) {
  return std::pair(a.incarnation, a.version) > std::pair(b.incarnation, b.version);
}

}  // namespace

Actions Membership::set_own(Instant now, wire::NodeRecord record) {
  turn(now);
  Actions out;
  record.node = config_.self;
  record.version = own_.version;
  // A record that came back from an earlier life may have raised it.
  record.incarnation = std::max(record.incarnation, own_.incarnation);
  if (own_.version != 0 && record == own_) return out;
  own_ = std::move(record);
  publish(out);
  return out;
}

void Membership::publish(Actions& out) {
  ++own_.version;
  own_signed_.record = wire::encode_record(own_);
  own_signed_.public_key = config_.verifier->public_key();
  own_signed_.signature = config_.verifier->sign(signed_text(own_signed_.record));
  for (const auto& [peer, link] : links_)
    if (link.accepted) out.send.emplace_back(peer, wire::encode(own_signed_));
}

Actions Membership::set_model(Instant now, std::optional<wire::ModelIdentity> model) {
  turn(now);
  Actions out;
  config_.hello.model = std::move(model);
  std::vector<PeerId> peers;
  for (const auto& [peer, link] : links_) peers.push_back(peer);
  for (PeerId peer : peers) check_model(now, peer, out);
  return out;
}

void Membership::greet(Instant now, PeerId peer, Actions& out) {
  if (own_.version != 0) out.send.emplace_back(peer, wire::encode(own_signed_));
  for (const auto& [owner, bytes] : signed_) {
    const Member& member = members_[owner];
    if (owner == peer) continue;
    if (!member.alive && now - member.lost_since > limits::kShareLostRecords) continue;
    out.send.emplace_back(peer, wire::encode(bytes));
  }
  if (plan_.epoch.value != 0) out.send.emplace_back(peer, wire::encode(plan_));
}

void Membership::on_record(Instant now, Link& link, const env::Frame& frame, Actions& out) {
  // In a full mesh most records come several times; the bytes of the newest are known by hash.
  const std::uint64_t hash = xxh3_64(frame.header.span());
  if (frame.payload.empty() && seen_frames_.count(hash) != 0) return;
  auto bytes = wire::decode_signed_record(frame);
  if (!bytes.ok()) {
    strike(now, link, bytes.error().message, out);
    return;
  }
  auto record = wire::decode_record(bytes->record);
  if (!record.ok()) {
    strike(now, link, record.error().message, out);
    return;
  }
  const PeerId owner = record->node;
  const auto known = members_.find(owner);
  if (owner == config_.self
          ? !newer_record(*record, own_)
          : known != members_.end() && !newer_record(*record, known->second.record))
    return;
  if (!config_.verifier->record_signature(owner, bytes->public_key, signed_text(bytes->record),
                                          bytes->signature)) {
    strike(now, link, "a record with a wrong signature", out);
    return;
  }
  if (owner == config_.self) {
    // Our own key signed it in an earlier life whose clock was ahead: take precedence again.
    if (own_.version == 0) return;
    own_.incarnation = record->incarnation + 1;
    publish(out);
    return;
  }
  if (known == members_.end() && members_.size() >= limits::kPeers && !make_room()) return;
  if (const auto old = frame_of_.find(owner); old != frame_of_.end())
    seen_frames_.erase(old->second);
  frame_of_[owner] = hash;
  seen_frames_[hash] = owner;
  adopt_record(now, std::move(record).value(), std::move(bytes).value(), link.info.peer, out);
}

void Membership::adopt_record(Instant now, wire::NodeRecord record, wire::SignedRecord bytes,
                              PeerId from, Actions& out) {
  const PeerId owner = record.node;
  Member& member = members_[owner];
  const bool first = member.record.version == 0;
  member.record = std::move(record);
  if (!member.alive) {
    member.lost_since = now;
    if (first && links_.count(owner) == 0) schedule_member(now, owner);
  }
  std::vector<PeerId> others;
  for (const auto& [peer, link] : links_)
    if (link.accepted && peer != from && peer != owner) others.push_back(peer);
  // Beyond the fan-out a run of neighbours by id, from a random start: every node draws another.
  const std::size_t count = std::min(others.size(), limits::kGossipFanout);
  const std::size_t start = count < others.size() ? jitter_.below(others.size()) : 0;
  for (std::size_t i = 0; i < count; ++i)
    out.send.emplace_back(others[(start + i) % others.size()], wire::encode(bytes));
  signed_[owner] = std::move(bytes);
  out.changes.push_back({Change::Kind::kRecordChanged, owner, ""});
  check_model(now, owner, out);
}

// Frees one place by forgetting the member that has been lost longest.
bool Membership::make_room() {
  auto oldest = members_.end();
  for (auto it = members_.begin(); it != members_.end(); ++it)
    if (!it->second.alive &&
        (oldest == members_.end() || it->second.lost_since < oldest->second.lost_since))
      oldest = it;
  if (oldest == members_.end()) return false;
  forget(oldest->first);
  return true;
}

void Membership::forget(PeerId peer) {
  if (const auto it = frame_of_.find(peer); it != frame_of_.end()) {
    seen_frames_.erase(it->second);
    frame_of_.erase(it);
  }
  signed_.erase(peer);
  redials_.erase(peer);
  members_.erase(peer);
}

void Membership::tick_lost(Instant now, Actions& out) {
  std::vector<PeerId> lost;
  for (const auto& [peer, member] : members_)
    if (!member.alive && links_.count(peer) == 0 && now - member.lost_since >= limits::kLostRecords)
      lost.push_back(peer);
  for (PeerId peer : lost) {
    out.changes.push_back({Change::Kind::kForgotten, peer, members_[peer].record.name});
    forget(peer);
  }
}

// Epoch, then the lower planner; two plans of one planner and epoch (it restarted alone) are
// ordered by their handles, so that everybody settles on the same one.
bool Membership::newer(const wire::Plan& a, const wire::Plan& b) {
  if (a.epoch != b.epoch) return a.epoch > b.epoch;
  if (a.planner != b.planner) return a.planner < b.planner;
  return wire::route_handle(a.epoch, a.stages) < wire::route_handle(b.epoch, b.stages);
}

Actions Membership::announce(Instant now, wire::Plan plan) {
  turn(now);
  Actions out;
  if (newer(plan, plan_)) adopt_plan(std::move(plan), config_.self, out);
  return out;
}

void Membership::adopt_plan(wire::Plan plan, PeerId from, Actions& out) {
  plan_ = std::move(plan);
  for (const auto& [peer, link] : links_)
    if (link.accepted && peer != from) out.send.emplace_back(peer, wire::encode(plan_));
  out.changes.push_back({Change::Kind::kPlanChanged, plan_.planner, ""});
}

void Membership::on_plan(Instant now, Link& link, const env::Frame& frame, Actions& out) {
  auto plan = wire::decode_plan(frame);
  if (!plan.ok()) {
    strike(now, link, plan.error().message, out);
    return;
  }
  if (newer(plan_, *plan)) {
    out.send.emplace_back(link.info.peer, wire::encode(plan_));
    return;
  }
  // A plan for other weights came through a node without a model; it is not for this one.
  const auto& model = config_.hello.model;
  if (!newer(*plan, plan_) || (model && model->fingerprint != plan->fingerprint)) return;
  adopt_plan(std::move(plan).value(), link.info.peer, out);
}

}  // namespace mesh::membership
