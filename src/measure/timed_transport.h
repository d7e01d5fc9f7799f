#pragma once
// A transport that notes how long decode frames take from node to node of one process: monotonic
// stamps at both ends, in the midst of the work.

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "base/time.h"
#include "env/transport.h"

namespace mesh::measure {

struct HopRecord {
  Instant received;
  Duration took{};        // from send() to the handler's call at the other end
  std::uint8_t type = 0;  // of the frame, wire::FrameType
};

// The stamps of all nodes of a process. Any thread.
class HopLedger {
 public:
  void sent(PeerId from, PeerId to, std::uint8_t type, Instant now);
  // Frames of a kind arrive in the order sent.
  void received(PeerId from, PeerId to, std::uint8_t type, Instant now);
  std::vector<HopRecord> records() const;

 private:
  using Way = std::tuple<PeerId, PeerId, std::uint8_t>;
  mutable std::mutex mutex_;
  std::map<Way, std::deque<Instant>> under_way_;
  std::vector<HopRecord> records_;
};

// Belongs to the control loop like the transport inside. Frames to the node itself are no hops.
class TimedTransport final : public env::Transport, public env::TransportHandler {
 public:
  TimedTransport(std::unique_ptr<env::Transport> inner, std::shared_ptr<HopLedger> ledger);
  ~TimedTransport() override;

  PeerId self() const override { return inner_->self(); }
  void set_handler(env::TransportHandler* handler) override { handler_ = handler; }
  void dial(const env::Address& address) override { inner_->dial(address); }
  Result<void> send(PeerId to, env::Frame frame) override;
  void close(PeerId peer, const Error& why) override { inner_->close(peer, why); }
  env::Traffic traffic(PeerId peer) const override { return inner_->traffic(peer); }

 private:
  void on_link_up(const env::LinkInfo& link) override;
  void on_frame(PeerId from, env::Frame frame) override;
  void on_link_down(PeerId peer, const Error& why) override;
  void on_dial_failed(const env::Address& address, const Error& why) override;

  const std::unique_ptr<env::Transport> inner_;
  const std::shared_ptr<HopLedger> ledger_;
  env::TransportHandler* handler_ = nullptr;
};

// Median milliseconds of the hops of such frames that ended in [begin, end); 0 without any.
double median_hop_ms(const std::vector<HopRecord>& records, std::uint8_t type, Instant begin,
                     Instant end);

}  // namespace mesh::measure
