#pragma once
// Who is there and what they say of themselves: HELLO, heartbeats, gossiped records, the plan, and
// whom to dial. A pure core: (now, input) → actions; the shell (node/ or sim/) performs them.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/random.h"
#include "base/result.h"
#include "base/time.h"
#include "env/transport.h"
#include "membership/verifier.h"
#include "wire/messages.h"

namespace mesh::membership {

// One thing that the owner of a Membership should know.
struct Change {
  enum class Kind {
    kMemberUp,       // HELLO accepted in both directions as far as we can see
    kMemberDown,     // its link is gone; `sentence` says why
    kRecordChanged,  // a newer record of `peer`, alive or not
    kPlanChanged,    // plan() is another one now; `peer` is its planner
    kRefused,        // a link to `peer` was refused by either side; `sentence` names both sides
    kForgotten,      // a lost member's record was dropped
  };
  Kind kind = Kind::kMemberUp;
  PeerId peer;
  std::string sentence;
  friend bool operator==(const Change&, const Change&) = default;
};

// What the shell does now, in this order: send, close, dial; changes are for its own use.
struct Actions {
  std::vector<std::pair<PeerId, env::Frame>> send;
  std::vector<std::pair<PeerId, Error>> close;
  std::vector<env::Address> dial;
  std::vector<Change> changes;
  // Appends `other` behind what is here.
  void merge(Actions other);
};

// Another node as this one sees it.
struct Member {
  wire::NodeRecord record;  // record.version 0: none has arrived yet, only `node` and `name` hold
  bool alive = false;       // linked and HELLO accepted
  Duration rtt{};           // smoothed round trip; 0: not measured
  Instant last_heard{};     // any frame; meaningless while never linked
  Instant lost_since{};     // valid while !alive: when it went, or when its record was learned
};

struct Config {
  PeerId self;
  wire::Hello hello;                   // what we say first on every link
  std::vector<env::Address> seeds;     // --peer; dialled for ever
  const Verifier* verifier = nullptr;  // not owned, outlives the Membership
  std::uint64_t jitter_seed = 0;       // of the redial back-off
};

// Control-loop only. Every call takes the same monotonic `now`, never smaller than before.
// Order of calls per link is that of env::TransportHandler. For outbound links LinkInfo::remote is
// expected to be the address that was dialled; otherwise a seed is redialled now and then.
class Membership {
 public:
  explicit Membership(Config config);

  Actions link_up(Instant now, const env::LinkInfo& link);
  Actions link_down(Instant now, PeerId peer, const Error& why);
  Actions dial_failed(Instant now, const env::Address& address, const Error& why);
  // Every frame of every peer may be given here, data frames included: they count as a sign of
  // life, and before an accepted HELLO they end the link. Handles HELLO, REFUSE, HEARTBEAT, RECORD
  // and PLAN.
  Actions frame(Instant now, std::int64_t unix_ms, PeerId from, const env::Frame& frame);
  // Does what is due: dials, heartbeats, deadlines. Call at wake_at() or later.
  Actions tick(Instant now);
  // Not later than the next thing due; a frame that changes nothing does not move it.
  Instant wake_at() const;

  // Publishes what this node says of itself. `node` and `version` are filled in here; an unchanged
  // record is not sent again.
  Actions set_own(Instant now, wire::NodeRecord record);
  // The model named in HELLO from now on; links to nodes with another fingerprint are refused.
  Actions set_model(Instant now, std::optional<wire::ModelIdentity> model);
  // A plan made by this node. Ignored when a newer one is known.
  Actions announce(Instant now, wire::Plan plan);

  PeerId self() const { return config_.self; }
  // Without self; ordered by id.
  const std::map<PeerId, Member>& members() const { return members_; }
  const wire::NodeRecord& own() const { return own_; }
  // Epoch 0: none yet.
  const wire::Plan& plan() const { return plan_; }
  // Whether data frames of this peer may be looked at: linked, HELLO accepted.
  bool accepted(PeerId peer) const;

 private:
  struct Link {
    env::LinkInfo info;
    Instant since{};
    Instant last_heard{};
    bool accepted = false;
    int strikes = 0;
    std::uint64_t heartbeats = 0;
  };
  // Redial state of one seed address, or of one known member (which has several addresses).
  struct Redial {
    Instant next{};
    Duration back_off{};
    bool in_flight = false;
    Instant started{};
    env::Address dialled;
    std::size_t turn = 0;  // which address comes next
  };
  // One side of a refusal's sentence: "this node" or "node b (k3vq7x2a)".
  struct Side;

  Side side(std::string label, const wire::Hello& hello) const;
  void turn(Instant now);
  Actions handle(Instant now, std::int64_t unix_ms, PeerId from, const env::Frame& frame);
  void on_hello(Instant now, std::int64_t unix_ms, Link& link, const env::Frame& frame,
                Actions& out);
  bool compatible(Instant now, std::int64_t unix_ms, PeerId from, const wire::Hello& hello,
                  Actions& out);
  void accept(Instant now, Link& link, const wire::Hello& hello, Actions& out);
  void on_refuse(Instant now, PeerId from, const env::Frame& frame, Actions& out);
  void on_heartbeat(Instant now, Link& link, const env::Frame& frame, Actions& out);
  void on_record(Instant now, Link& link, const env::Frame& frame, Actions& out);
  void on_plan(Instant now, Link& link, const env::Frame& frame, Actions& out);
  void adopt_record(Instant now, wire::NodeRecord record, wire::SignedRecord bytes, PeerId from,
                    Actions& out);
  void adopt_plan(wire::Plan plan, PeerId from, Actions& out);
  void greet(Instant now, PeerId peer, Actions& out);
  void publish(Actions& out);
  void probe(Instant now, Link& link, Actions& out);
  void refuse(Instant now, PeerId peer, Code code, const std::string& ours,
              const std::string& theirs, Actions& out);
  void check_model(Instant now, PeerId peer, Actions& out);
  void strike(Instant now, Link& link, const std::string& what, Actions& out);
  // Closes the link for a fault of the peer and does not dial it again soon.
  void reject(Instant now, PeerId peer, const Error& why, Actions& out);
  void drop_link(Instant now, PeerId peer, const Error& why, bool close, Actions& out);
  // The next dial of `peer` waits: kRedialMax after a refusal, else the next step of the back-off.
  void hold_back(Instant now, PeerId peer, bool refused);
  bool make_room();
  void forget(PeerId peer);
  void schedule_member(Instant now, PeerId peer);
  void tick_links(Instant now, Actions& out);
  void tick_dials(Instant now, Actions& out);
  void tick_lost(Instant now, Actions& out);
  void attempt(Instant now, Redial& redial, const env::Address& address, Actions& out);
  void fail(Instant now, Redial& redial);
  void dial_done(const env::Address& address, bool ok, Instant now);
  bool in_flight(const env::Address& address) const;
  bool satisfied(const env::Address& seed) const;
  bool wants_dial(PeerId peer) const;
  Instant next_due() const;
  static Instant due(const Redial& redial);
  static bool newer(const wire::Plan& a, const wire::Plan& b);
  std::string name_of(PeerId peer) const;

  Config config_;
  Prng jitter_;
  wire::NodeRecord own_;
  wire::SignedRecord own_signed_;
  wire::Plan plan_;
  std::map<PeerId, Member> members_;
  std::map<PeerId, wire::SignedRecord> signed_;
  std::map<std::uint64_t, PeerId>
      seen_frames_;                           // hashes of RECORD headers that changed nothing since
  std::map<PeerId, std::uint64_t> frame_of_;  // the hash in seen_frames_ of each owner
  std::map<PeerId, Link> links_;
  std::map<env::Address, Redial> seeds_;
  std::map<env::Address, PeerId> seed_peer_;  // who answered at a seed address
  std::map<PeerId, Redial> redials_;
  Instant next_heartbeat_{};
  Instant last_turn_{};
  bool started_ = false;
  mutable std::optional<Instant> wake_;  // wake_at() as long as nothing changes it
};

}  // namespace mesh::membership
