#include "measure/timed_transport.h"

#include "measure/real_time.h"

namespace mesh::measure {

void HopLedger::sent(PeerId from, PeerId to, std::uint8_t type, Instant now) {
  const std::lock_guard lock(mutex_);
  under_way_[{from, to, type}].push_back(now);
}

void HopLedger::received(PeerId from, PeerId to, std::uint8_t type, Instant now) {
  const std::lock_guard lock(mutex_);
  std::deque<Instant>& sent = under_way_[{from, to, type}];
  if (sent.empty()) return;
  records_.push_back({now, now - sent.front(), type});
  sent.pop_front();
}

std::vector<HopRecord> HopLedger::records() const {
  const std::lock_guard lock(mutex_);
  return records_;
}

TimedTransport::TimedTransport(std::unique_ptr<env::Transport> inner,
                               std::shared_ptr<HopLedger> ledger)
    : inner_(std::move(inner)), ledger_(std::move(ledger)) {
  inner_->set_handler(this);
}

TimedTransport::~TimedTransport() {
  inner_->set_handler(nullptr);
}

Result<void> TimedTransport::send(PeerId to, env::Frame frame) {
  const bool noted = frame.priority == env::Priority::kDecode && to != self();
  const std::uint8_t type = frame.type;
  // Before it is sent: it may arrive before send() returns.
  if (noted) ledger_->sent(self(), to, type, now());
  return inner_->send(to, std::move(frame));
}

void TimedTransport::on_frame(PeerId from, env::Frame frame) {
  if (frame.priority == env::Priority::kDecode && from != self())
    ledger_->received(from, self(), frame.type, now());
  if (handler_ != nullptr) handler_->on_frame(from, std::move(frame));
}

void TimedTransport::on_link_up(const env::LinkInfo& link) {
  if (handler_ != nullptr) handler_->on_link_up(link);
}

void TimedTransport::on_link_down(PeerId peer, const Error& why) {
  if (handler_ != nullptr) handler_->on_link_down(peer, why);
}

void TimedTransport::on_dial_failed(const env::Address& address, const Error& why) {
  if (handler_ != nullptr) handler_->on_dial_failed(address, why);
}

double median_hop_ms(const std::vector<HopRecord>& records, std::uint8_t type, Instant begin,
                     Instant end) {
  std::vector<double> times;
  for (const HopRecord& record : records)
    if (record.type == type && record.received >= begin && record.received < end)
      times.push_back(to_milliseconds(record.took));
  return percentile(std::move(times), 0.5);
}

}  // namespace mesh::measure
