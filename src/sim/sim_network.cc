#include "sim/sim_network.h"

#include <algorithm>

#include "base/limits.h"
#include "wire/frame.h"

namespace mesh::sim {

class SimNetwork::Card : public env::Transport {
 public:
  Card(SimNetwork& network, Host& host, PeerId id, env::Address address)
      : network_(network), host_(host), id_(id), address_(std::move(address)) {}
  ~Card() override { network_.detach(id_); }

  PeerId self() const override { return id_; }
  void set_handler(env::TransportHandler* handler) override { handler_ = handler; }
  void dial(const env::Address& address) override { network_.dial(*this, address); }
  Result<void> send(PeerId to, env::Frame frame) override {
    return network_.send(*this, to, std::move(frame));
  }
  void close(PeerId peer, const Error& why) override { network_.close(id_, peer, why); }

  Host& host() { return host_; }
  const env::Address& address() const { return address_; }
  env::TransportHandler* handler() { return handler_; }

 private:
  SimNetwork& network_;
  Host& host_;
  PeerId id_;
  env::Address address_;
  env::TransportHandler* handler_ = nullptr;
};

std::unique_ptr<env::Transport> SimNetwork::attach(Host& host, PeerId id, env::Address address) {
  MESH_CHECK(cards_.count(id) == 0, "node {} is attached twice", id.short_name());
  auto card = std::make_unique<Card>(*this, host, id, address);
  cards_[id] = card.get();
  silent_.erase(id);
  listeners_[address] = id;
  return card;
}

SimNetwork::Card* SimNetwork::card(PeerId id) const {
  const auto it = cards_.find(id);
  return it == cards_.end() ? nullptr : it->second;
}

bool SimNetwork::reachable(PeerId a, PeerId b) const {
  if (cuts_.count(pair(a, b)) != 0) return false;
  const auto group = [&](PeerId id) {
    const auto it = groups_.find(id);
    return it == groups_.end() ? 0 : it->second;
  };
  return group(a) == group(b);
}

void SimNetwork::set_quality(PeerId a, PeerId b, LinkQuality quality) {
  qualities_[pair(a, b)] = quality;
}

const LinkQuality& SimNetwork::quality(PeerId a, PeerId b) const {
  const auto it = qualities_.find(pair(a, b));
  return it == qualities_.end() ? quality_ : it->second;
}

Duration SimNetwork::latency(PeerId a, PeerId b) {
  const LinkQuality& q = quality(a, b);
  const double factor = 1 + q.spread * world_.random().unit();
  return Duration(static_cast<std::int64_t>(static_cast<double>(q.latency.count()) * factor));
}

void SimNetwork::dial(Card& from, const env::Address& address) {
  const PeerId self = from.self();
  Card* const me = &from;
  const auto failed = [&](Duration delay, Code code, const std::string& why) {
    from.host().later(delay, [me, address, code, why] {
      if (me->handler() != nullptr) me->handler()->on_dial_failed(address, Error(code, why));
    });
  };
  const auto listener = listeners_.find(address);
  if (listener == listeners_.end() || !reachable(self, listener->second)) {
    failed(limits::kDialDeadline, Code::kDeadlineExceeded, "no answer from " + address.to_string());
    return;
  }
  const PeerId peer = listener->second;
  const Duration handshake = 4 * latency(self, peer);  // TCP and TLS
  if (card(peer) == nullptr) {
    const bool silent = silent_.count(peer) != 0;
    failed(silent ? limits::kDialDeadline : handshake / 2,
           silent ? Code::kDeadlineExceeded : Code::kUnavailable,
           address.to_string() + (silent ? " does not answer" : " refuses the connection"));
    return;
  }
  dialling_.insert({self, peer});
  from.host().later(handshake, [this, self, peer, address] { connect(self, peer, address); });
}

void SimNetwork::connect(PeerId from, PeerId to, const env::Address& address) {
  dialling_.erase({from, to});
  Card* const dialler = card(from);
  Card* const listener = card(to);
  if (dialler == nullptr || dialler->handler() == nullptr) return;
  const auto failed = [&](const char* why) {
    dialler->handler()->on_dial_failed(address,
                                       Error(Code::kUnavailable, address.to_string() + ": " + why));
  };
  if (from == to) return failed("this is the node itself");
  if (listener == nullptr || listener->handler() == nullptr || !reachable(from, to))
    return failed("the connection broke");
  const int mine = from < to ? 0 : 1;
  if (const auto it = links_.find(pair(from, to)); it != links_.end()) {
    const std::shared_ptr<Link> old = it->second;
    if (old->up[mine]) return failed("there is a link already");
    // Half open: the other end has not noticed that the old one is gone.
    end(old, to, from, Error(Code::kUnavailable, "replaced by a new link"));
  }
  if (dialling_.count({to, from}) != 0 && to < from)
    return failed("the other side's dial goes first");
  links_[pair(from, to)] = std::make_shared<Link>();
  world_.trace(from.bytes[0] * 256u + to.bytes[0]);
  dialler->handler()->on_link_up({to, address, true});
  const env::Address remote = dialler->address();
  listener->host().later(Duration{}, [this, from, to, remote, link = links_[pair(from, to)]] {
    Card* const card_to = card(to);
    if (card_to != nullptr && link->up[to < from ? 0 : 1])
      card_to->handler()->on_link_up({from, remote, false});
  });
}

Result<void> SimNetwork::send(Card& from, PeerId to, env::Frame frame) {
  MESH_RETURN_IF_ERROR(wire::check_limits(frame));
  const PeerId self = from.self();
  if (to == self) {
    auto shared = std::make_shared<env::Frame>(std::move(frame));
    Card* const me = &from;
    from.host().later(Duration{}, [me, self, shared] {
      if (me->handler() != nullptr) me->handler()->on_frame(self, std::move(*shared));
    });
    return {};
  }
  const auto it = links_.find(pair(self, to));
  const int mine = self < to ? 0 : 1;
  if (it == links_.end() || !it->second->up[mine])
    return Error(Code::kNotFound, fmt::format("no link to node {}", to.short_name()));
  const std::shared_ptr<Link>& link = it->second;
  Buffer bytes = wire::encode_frame(frame);
  if (link->queued[mine] + bytes.size() > limits::kLinkQueueBytes)
    return Error(Code::kResourceExhausted,
                 fmt::format("{} bytes wait for node {}", link->queued[mine], to.short_name()));
  ++frames_;
  bytes_ += bytes.size();
  link->queued[mine] += bytes.size();
  const LinkQuality& q = quality(self, to);
  const Duration transfer(
      static_cast<std::int64_t>(static_cast<double>(bytes.size()) / q.bytes_per_s * 1e9));
  link->busy_until[mine] = std::max(world_.now(), link->busy_until[mine]) + transfer;
  const Instant arrival =
      std::max(link->last_arrival[mine], link->busy_until[mine] + latency(self, to));
  link->last_arrival[mine] = arrival;
  auto shared = std::make_shared<Buffer>(std::move(bytes));
  world_.at(arrival, [this, link, self, to, mine, shared] {
    link->queued[mine] -= shared->size();
    deliver(link, self, to, std::move(*shared));
  });
  return {};
}

void SimNetwork::deliver(const std::shared_ptr<Link>& link, PeerId from, PeerId to, Buffer bytes) {
  if (!reachable(from, to)) {
    link->lossy = true;
    return;
  }
  Card* const receiver = card(to);
  if (receiver == nullptr || !link->up[to < from ? 0 : 1] || link->lossy) return;
  auto frame = wire::decode_frame(bytes.span());
  if (!frame.ok()) {
    close(to, from, frame.error());
    return;
  }
  world_.trace(static_cast<std::uint64_t>(world_.now().time_since_epoch().count()));
  world_.trace(xxh3_64(bytes.span(), from.bytes[0] * 256u + to.bytes[0]));
  receiver->handler()->on_frame(from, std::move(frame).value());
}

void SimNetwork::end(const std::shared_ptr<Link>& link, PeerId at, PeerId peer, const Error& why) {
  const int mine = at < peer ? 0 : 1;
  if (!link->up[mine]) return;
  link->up[mine] = false;
  if (!link->up[1 - mine]) {
    const auto it = links_.find(pair(at, peer));
    if (it != links_.end() && it->second == link) links_.erase(it);
  }
  Card* const me = card(at);
  if (me != nullptr && me->handler() != nullptr) me->handler()->on_link_down(peer, why);
}

void SimNetwork::close(PeerId from, PeerId to, const Error& why) {
  const auto it = links_.find(pair(from, to));
  if (it == links_.end()) return;
  const std::shared_ptr<Link> link = it->second;
  const int mine = from < to ? 0 : 1;
  if (!link->up[mine]) return;
  Card* const me = card(from);
  me->host().later(Duration{}, [this, link, from, to, why] { end(link, from, to, why); });
  // What was sent before arrives before the end does.
  const Instant arrival =
      std::max(link->last_arrival[mine], world_.now() + latency(from, to)) + Duration(1);
  world_.at(arrival, [this, link, from, to, why] {
    if (reachable(from, to))
      end(link, to, from, Error(Code::kUnavailable, "closed by the other side: " + why.message));
  });
}

void SimNetwork::detach(PeerId id) {
  cards_.erase(id);
  const bool silent = silent_.count(id) != 0;
  for (auto it = links_.begin(); it != links_.end();) {
    const auto [pair_of, link] = *it;
    ++it;
    if (pair_of.first != id && pair_of.second != id) continue;
    const PeerId peer = pair_of.first == id ? pair_of.second : pair_of.first;
    const int mine = id < peer ? 0 : 1;
    link->up[mine] = false;
    if (!link->up[1 - mine]) {
      links_.erase(pair_of);
      continue;
    }
    if (silent) continue;
    world_.after(latency(id, peer), [this, link = link, peer, id] {
      if (reachable(id, peer))
        end(link, peer, id, Error(Code::kUnavailable, "connection reset by the other side"));
    });
  }
}

void SimNetwork::heal(PeerId a, PeerId b) {
  cuts_.erase(pair(a, b));
  if (!reachable(a, b)) return;
  const auto it = links_.find(pair(a, b));
  if (it == links_.end() || !it->second->lossy) return;
  const std::shared_ptr<Link> link = it->second;
  const Error why(Code::kUnavailable, "connection timed out");
  world_.after(Duration{}, [this, link, a, b, why] {
    end(link, a, b, why);
    end(link, b, a, why);
  });
}

void SimNetwork::heal_all() {
  cuts_.clear();
  groups_.clear();
  std::vector<Pair> pairs;
  for (const auto& [pair_of, link] : links_) pairs.push_back(pair_of);
  for (const Pair& p : pairs) heal(p.first, p.second);
}

}  // namespace mesh::sim
