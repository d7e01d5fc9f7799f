#include "membership/membership.h"

#include "base/limits.h"

// Links: HELLO and its refusals, heartbeats, strikes, silence.

namespace mesh::membership {
namespace {

// Two models of different fingerprints, in a sentence.
std::string models_differ(const std::string& a, const wire::ModelIdentity& a_model,
                          const std::string& b, const wire::ModelIdentity& b_model) {
  if (a_model.name == b_model.name && a_model.kv_dtype != b_model.kv_dtype)
    return fmt::format(
        "{} serves {} with a KV cache in {}, {} with one in {}: start both with the same "
        "--kv-dtype",
        a, a_model.name, a_model.kv_dtype, b, b_model.kv_dtype);
  return fmt::format(
      "{} serves {} (fingerprint {}), {} serves {} (fingerprint {}): their weights differ, "
      "start both from the same files",
      a, a_model.name, to_hex(a_model.fingerprint), b, b_model.name, to_hex(b_model.fingerprint));
}

}  // namespace

using wire::FrameType;

void Actions::merge(Actions other) {
  for (auto& item : other.send) send.push_back(std::move(item));
  for (auto& item : other.close) close.push_back(std::move(item));
  for (auto& item : other.dial) dial.push_back(std::move(item));
  for (auto& item : other.changes) changes.push_back(std::move(item));
}

struct Membership::Side {
  std::string label;
  const wire::Hello& hello;
};

Membership::Membership(Config config) : config_(std::move(config)), jitter_(config_.jitter_seed) {
  MESH_CHECK(config_.verifier != nullptr, "membership without a verifier");
  for (const env::Address& seed : config_.seeds) seeds_.emplace(seed, Redial{});
}

bool Membership::accepted(PeerId peer) const {
  const auto it = links_.find(peer);
  return it != links_.end() && it->second.accepted;
}

std::string Membership::name_of(PeerId peer) const {
  const auto it = members_.find(peer);
  if (it == members_.end() || it->second.record.name.empty())
    return fmt::format("node {}", peer.short_name());
  return fmt::format("node {} ({})", it->second.record.name, peer.short_name());
}

// A loop that stood still heard nobody: silence is counted from its return.
void Membership::turn(Instant now) {
  if (started_ && now - last_turn_ > 2 * limits::kHeartbeat)
    for (auto& [peer, link] : links_) link.last_heard = now;
  if (!started_)
    for (auto& [address, redial] : seeds_) redial.next = now;
  started_ = true;
  last_turn_ = now;
  wake_.reset();
}

Actions Membership::link_up(Instant now, const env::LinkInfo& info) {
  turn(now);
  Actions out;
  const PeerId peer = info.peer;
  if (info.outbound) {
    dial_done(info.remote, true, now);
    if (seeds_.count(info.remote) != 0) seed_peer_[info.remote] = peer;
  }
  if (peer == config_.self) {
    out.close.emplace_back(peer, Error(Code::kInvalidArgument, "this address is our own"));
    return out;
  }
  if (links_.count(peer) != 0)
    drop_link(now, peer, Error(Code::kUnavailable, "replaced by a new link"), false, out);
  if (links_.size() >= limits::kPeers) {
    out.close.emplace_back(peer,
                           Error(Code::kResourceExhausted,
                                 fmt::format("this node has {} links, its limit", limits::kPeers)));
    return out;
  }
  Link link;
  link.info = info;
  link.since = link.last_heard = now;
  links_.emplace(peer, link);
  if (const auto it = redials_.find(peer); it != redials_.end()) it->second.in_flight = false;
  out.send.emplace_back(peer, wire::encode(config_.hello));
  return out;
}

Actions Membership::link_down(Instant now, PeerId peer, const Error& why) {
  turn(now);
  Actions out;
  const auto it = links_.find(peer);
  if (it == links_.end()) return out;
  const bool was_accepted = it->second.accepted;
  drop_link(now, peer, why, false, out);
  if (was_accepted)
    schedule_member(now, peer);
  else
    hold_back(now, peer, false);
  return out;
}

Actions Membership::frame(Instant now, std::int64_t unix_ms, PeerId from, const env::Frame& frame) {
  // Being heard only puts the peer's silence off, so the next wake-up stays as it is.
  const std::optional<Instant> wake = wake_;
  turn(now);
  Actions out = handle(now, unix_ms, from, frame);
  if (out.changes.empty() && out.close.empty()) wake_ = wake;
  return out;
}

Actions Membership::handle(Instant now, std::int64_t unix_ms, PeerId from,
                           const env::Frame& frame) {
  Actions out;
  const auto it = links_.find(from);
  if (it == links_.end()) return out;  // closed by us while the frame was on its way
  Link& link = it->second;
  link.last_heard = now;
  const auto type = static_cast<FrameType>(frame.type);
  if (type == FrameType::kRefuse) {
    on_refuse(now, from, frame, out);
    return out;
  }
  if (!link.accepted && type != FrameType::kHello) {
    reject(now, from,
           Error(Code::kPermissionDenied,
                 fmt::format("{} sent frame type {} before HELLO", name_of(from), frame.type)),
           out);
    return out;
  }
  if (link.accepted) members_[from].last_heard = now;
  switch (type) {
    case FrameType::kHello:
      on_hello(now, unix_ms, link, frame, out);
      break;
    case FrameType::kHeartbeat:
      on_heartbeat(now, link, frame, out);
      break;
    case FrameType::kRecord:
      on_record(now, link, frame, out);
      break;
    case FrameType::kPlan:
      on_plan(now, link, frame, out);
      break;
    case FrameType::kRefuse:
    case FrameType::kOpen:
    case FrameType::kOpenReply:
    case FrameType::kPrompt:
    case FrameType::kStep:
    case FrameType::kTokens:
    case FrameType::kClose:
    case FrameType::kFail:
    case FrameType::kExtend:
    case FrameType::kCredit:
    case FrameType::kRowsDone:
    case FrameType::kScores:
      break;
    default:
      if ((frame.flags & wire::kFlagOptional) == 0)
        reject(now, from,
               Error(Code::kUnsupported, fmt::format("{} sent frame type {}, which is unknown here",
                                                     name_of(from), frame.type)),
               out);
  }
  return out;
}

Membership::Side Membership::side(std::string label, const wire::Hello& hello) const {
  return Side{std::move(label), hello};
}

void Membership::on_hello(Instant now, std::int64_t unix_ms, Link& link, const env::Frame& frame,
                          Actions& out) {
  const PeerId from = link.info.peer;
  if (link.accepted) {
    strike(now, link, "a second HELLO", out);
    return;
  }
  const auto hello = wire::decode_hello(frame);
  if (!hello.ok()) {
    reject(now, from, hello.error().with_context(name_of(from)), out);
    return;
  }
  if (!compatible(now, unix_ms, from, *hello, out)) return;
  if (members_.count(from) == 0 && members_.size() >= limits::kPeers && !make_room()) {
    const std::string why = fmt::format("the mesh has {} members, its limit", limits::kPeers);
    refuse(now, from, Code::kResourceExhausted, why, why, out);
    return;
  }
  accept(now, link, *hello, out);
}

bool Membership::compatible(Instant now, std::int64_t unix_ms, PeerId from,
                            const wire::Hello& hello, Actions& out) {
  const auto named = [](const std::string& name, PeerId id) {
    return fmt::format("node {} ({})", name.empty() ? "?" : name, id.short_name());
  };
  // `sentence(me, other)` is told to both sides, each as "this node".
  const auto refused = [&](Code code, auto sentence) {
    refuse(now, from, code,
           sentence(side("this node", config_.hello), side(named(hello.node_name, from), hello)),
           sentence(side("this node", hello),
                    side(named(config_.hello.node_name, config_.self), config_.hello)),
           out);
    return false;
  };
  const wire::Hello& own = config_.hello;
  if (hello.protocol != own.protocol)
    return refused(Code::kUnsupported, [](const Side& me, const Side& other) {
      return fmt::format("{} speaks mesh/{}, {} speaks mesh/{}: update the older one", me.label,
                         me.hello.protocol, other.label, other.hello.protocol);
    });
  if (hello.certificate.cluster_key != own.certificate.cluster_key)
    return refused(Code::kPermissionDenied, [this](const Side& me, const Side& other) {
      const auto cluster = [this](const Side& s) {
        return config_.verifier->cluster_name(s.hello.certificate.cluster_key);
      };
      return fmt::format(
          "{} belongs to cluster {}, {} to cluster {}: the same cluster.key is needed on both",
          me.label, cluster(me), other.label, cluster(other));
    });
  if (const auto valid = config_.verifier->certificate(hello.certificate, from, unix_ms);
      !valid.ok()) {
    refuse(now, from, valid.error().code,
           fmt::format("this node does not admit {}: {}", named(hello.node_name, from),
                       valid.error().message),
           fmt::format("{} does not admit this node: {}", named(own.node_name, config_.self),
                       valid.error().message),
           out);
    return false;
  }
  if (hello.engine.version != own.engine.version)
    return refused(Code::kUnsupported, [](const Side& me, const Side& other) {
      return fmt::format("{} runs version {}, {} runs version {}: start both from the same version",
                         me.label, me.hello.engine.version, other.label,
                         other.hello.engine.version);
    });
  if (hello.engine.numeric_class != own.engine.numeric_class)
    return refused(Code::kUnsupported, [](const Side& me, const Side& other) {
      return fmt::format(
          "{} computes in numeric class {}, {} in {}: their results would differ, choose one class",
          me.label, me.hello.engine.numeric_class, other.label, other.hello.engine.numeric_class);
    });
  if (hello.engine.self_test != own.engine.self_test)
    return refused(Code::kUnsupported, [](const Side& me, const Side& other) {
      return fmt::format(
          "{} and {} are both of numeric class {}, but their self-tests give {} and {}: one of "
          "them computes wrongly, run 'toolkit-mesh doctor' on both",
          me.label, other.label, me.hello.engine.numeric_class, to_hex(me.hello.engine.self_test),
          to_hex(other.hello.engine.self_test));
    });
  if (hello.model && own.model && hello.model->fingerprint != own.model->fingerprint)
    return refused(Code::kUnsupported, [](const Side& me, const Side& other) {
      return models_differ(me.label, *me.hello.model, other.label, *other.hello.model);
    });
  return true;
}

void Membership::accept(Instant now, Link& link, const wire::Hello& hello, Actions& out) {
  const PeerId from = link.info.peer;
  link.accepted = true;
  Member& member = members_[from];
  member.alive = true;
  member.last_heard = now;
  member.rtt = Duration{};
  if (member.record.version == 0) {
    member.record.node = from;
    member.record.name = hello.node_name;
    member.record.addresses = hello.addresses;
    member.record.engine = hello.engine;
  }
  redials_.erase(from);
  for (auto& [address, redial] : seeds_)
    if (const auto it = seed_peer_.find(address); it != seed_peer_.end() && it->second == from)
      redial.back_off = Duration{};
  out.changes.push_back({Change::Kind::kMemberUp, from, hello.node_name});
  if (next_heartbeat_ < now) next_heartbeat_ = now + limits::kHeartbeat;
  probe(now, link, out);
  greet(now, from, out);
}

void Membership::on_refuse(Instant now, PeerId from, const env::Frame& frame, Actions& out) {
  const auto refusal = wire::decode_refuse(frame);
  if (!refusal.ok()) {
    reject(now, from, refusal.error().with_context(name_of(from)), out);
    return;
  }
  out.changes.push_back({Change::Kind::kRefused, from, refusal->why.message});
  reject(now, from, refusal->why, out);
}

void Membership::refuse(Instant now, PeerId peer, Code code, const std::string& ours,
                        const std::string& theirs, Actions& out) {
  out.send.emplace_back(peer, wire::encode(wire::Refuse{Error(code, theirs)}));
  out.changes.push_back({Change::Kind::kRefused, peer, ours});
  reject(now, peer, Error(code, ours), out);
}

void Membership::check_model(Instant now, PeerId peer, Actions& out) {
  const auto member = members_.find(peer);
  if (member == members_.end() || !accepted(peer)) return;
  const auto& own = config_.hello.model;
  const auto& other = member->second.record.model;
  if (!own || !other || own->fingerprint == other->fingerprint) return;
  const std::string self_name =
      fmt::format("node {} ({})", config_.hello.node_name, config_.self.short_name());
  refuse(now, peer, Code::kUnsupported, models_differ("this node", *own, name_of(peer), *other),
         models_differ("this node", *other, self_name, *own), out);
}

void Membership::strike(Instant now, Link& link, const std::string& what, Actions& out) {
  if (++link.strikes < limits::kStrikes) return;
  const PeerId peer = link.info.peer;
  reject(now, peer,
         Error(Code::kCorrupt, fmt::format("{} sent {} bad messages, the last: {}", name_of(peer),
                                           limits::kStrikes, what)),
         out);
}

void Membership::reject(Instant now, PeerId peer, const Error& why, Actions& out) {
  hold_back(now, peer, true);
  drop_link(now, peer, why, true, out);
}

void Membership::drop_link(Instant now, PeerId peer, const Error& why, bool close, Actions& out) {
  const auto it = links_.find(peer);
  if (it == links_.end()) return;
  const bool was_accepted = it->second.accepted;
  links_.erase(it);
  if (close) out.close.emplace_back(peer, why);
  if (!was_accepted) return;
  Member& member = members_[peer];
  member.alive = false;
  member.lost_since = now;
  out.changes.push_back({Change::Kind::kMemberDown, peer, why.message});
}

void Membership::probe(Instant now, Link& link, Actions& out) {
  const auto ns =
      static_cast<std::uint64_t>(std::max<std::int64_t>(1, now.time_since_epoch().count()));
  out.send.emplace_back(link.info.peer, wire::encode(wire::Heartbeat{++link.heartbeats, ns, 0}));
}

void Membership::on_heartbeat(Instant now, Link& link, const env::Frame& frame, Actions& out) {
  const auto beat = wire::decode_heartbeat(frame);
  if (!beat.ok()) {
    strike(now, link, beat.error().message, out);
    return;
  }
  if (beat->sent_ns != 0) {
    out.send.emplace_back(link.info.peer,
                          wire::encode(wire::Heartbeat{beat->count, 0, beat->sent_ns}));
    return;
  }
  const auto now_ns = static_cast<std::uint64_t>(now.time_since_epoch().count());
  const auto oldest = static_cast<std::uint64_t>((2 * limits::kSuspicion).count());
  if (beat->echo_ns == 0 || beat->echo_ns > now_ns || now_ns - beat->echo_ns > oldest) return;
  const Duration measured(static_cast<std::int64_t>(now_ns - beat->echo_ns));
  Member& member = members_[link.info.peer];
  member.rtt = member.rtt == Duration{} ? measured : (member.rtt * 7 + measured) / 8;
}

void Membership::tick_links(Instant now, Actions& out) {
  std::vector<std::pair<PeerId, Error>> gone;
  for (const auto& [peer, link] : links_) {
    if (!link.accepted && now - link.since >= limits::kHelloDeadline)
      gone.emplace_back(peer, Error(Code::kDeadlineExceeded,
                                    fmt::format("{} sent no HELLO within {:.0f} s", name_of(peer),
                                                to_seconds(limits::kHelloDeadline))));
    else if (link.accepted && now - link.last_heard >= limits::kSuspicion)
      gone.emplace_back(peer, Error(Code::kDeadlineExceeded,
                                    fmt::format("{} was silent for {:.1f} s", name_of(peer),
                                                to_seconds(now - link.last_heard))));
  }
  for (const auto& [peer, why] : gone) {
    const bool was_accepted = accepted(peer);
    if (was_accepted) {
      drop_link(now, peer, why, true, out);
      schedule_member(now, peer);
    } else {
      reject(now, peer, why, out);
    }
  }
  if (now < next_heartbeat_) return;
  for (auto& [peer, link] : links_)
    if (link.accepted) probe(now, link, out);
  next_heartbeat_ = now + limits::kHeartbeat;
}

Actions Membership::tick(Instant now) {
  turn(now);
  Actions out;
  tick_links(now, out);
  tick_dials(now, out);
  tick_lost(now, out);
  return out;
}

}  // namespace mesh::membership
