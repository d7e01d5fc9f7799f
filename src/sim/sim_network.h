#pragma once
// Links on virtual time. Every frame is encoded and decoded by wire/frame; per link latency and
// bandwidth; cuts lose frames without a word, crashes end links.

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "env/transport.h"
#include "sim/host.h"
#include "sim/world.h"

namespace mesh::sim {

struct LinkQuality {
  Duration latency = milliseconds(1);  // one way
  double spread = 0.1;                 // of the latency, drawn per frame; order is kept
  double bytes_per_s = 100e6;
};

class SimNetwork {
 public:
  explicit SimNetwork(World& world) : world_(world) {}
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;

  // Attaches a node's network card; `host` must outlive it. Destroying the card (a crash) resets
  // its links at the peers after one latency.
  std::unique_ptr<env::Transport> attach(Host& host, PeerId id, env::Address address);
  // The machine loses power with the next destruction of its card: peers hear nothing.
  void silence(PeerId id) { silent_.insert(id); }

  void set_quality(LinkQuality quality) { quality_ = quality; }
  void set_quality(PeerId a, PeerId b, LinkQuality quality);
  // Frames and dials between the two are lost until heal().
  void cut(PeerId a, PeerId b) { cuts_.insert(pair(a, b)); }
  void heal(PeerId a, PeerId b);
  // Nodes in different groups cannot talk; ids that are absent are in group 0.
  void partition(std::map<PeerId, int> groups) { groups_ = std::move(groups); }
  void heal_all();

  std::uint64_t frames() const { return frames_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  class Card;
  // One direction's view: each end knows whether it still holds the link.
  struct Link {
    bool up[2] = {true, true};       // by end: [0] the smaller id
    Instant last_arrival[2] = {};    // by sender
    Instant busy_until[2] = {};      // by sender: the wire is free again
    std::size_t queued[2] = {0, 0};  // bytes sent, not yet arrived
    bool lossy = false;              // a frame was lost: TCP would not recover after a long cut
  };
  using Pair = std::pair<PeerId, PeerId>;
  static Pair pair(PeerId a, PeerId b) { return a < b ? Pair(a, b) : Pair(b, a); }
  bool reachable(PeerId a, PeerId b) const;
  const LinkQuality& quality(PeerId a, PeerId b) const;
  Duration latency(PeerId a, PeerId b);
  Card* card(PeerId id) const;

  void dial(Card& from, const env::Address& address);
  void connect(PeerId from, PeerId to, const env::Address& address);
  Result<void> send(Card& from, PeerId to, env::Frame frame);
  void deliver(const std::shared_ptr<Link>& link, PeerId from, PeerId to, Buffer bytes);
  void close(PeerId from, PeerId to, const Error& why);
  // Ends the view of `at` on its link to `peer`.
  void end(const std::shared_ptr<Link>& link, PeerId at, PeerId peer, const Error& why);
  void detach(PeerId id);

  World& world_;
  LinkQuality quality_;
  std::map<Pair, LinkQuality> qualities_;
  std::map<PeerId, Card*> cards_;
  std::map<env::Address, PeerId> listeners_;
  std::map<Pair, std::shared_ptr<Link>> links_;
  std::set<Pair> dialling_;  // (from, to)
  std::set<Pair> cuts_;
  std::set<PeerId> silent_;
  std::map<PeerId, int> groups_;
  std::uint64_t frames_ = 0, bytes_ = 0;
};

}  // namespace mesh::sim
