#include "bench/support/link_end.h"

#include <chrono>
#include <future>

namespace mesh::bench {
namespace {
constexpr std::chrono::seconds kPatience{10};
}  // namespace

LinkEnd::LinkEnd()
    : identity_(net::NodeIdentity::generate()),
      transport_(std::make_unique<net::TlsTransport>(io_, loop_, events_, identity_)) {
  transport_->set_handler(this);
}

Result<std::unique_ptr<LinkEnd>> LinkEnd::start() {
  std::unique_ptr<LinkEnd> end(new LinkEnd());
  MESH_ASSIGN_OR_RETURN(end->port_, end->transport_->listen("127.0.0.1", 0));
  end->loop_.start();
  return end;
}

LinkEnd::~LinkEnd() {
  loop_.stop();
  transport_.reset();
}

bool LinkEnd::wait_link() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return linked_; });
}

void LinkEnd::on_link_up(const env::LinkInfo&) {
  std::lock_guard lock(mutex_);
  linked_ = true;
  changed_.notify_all();
}

void LinkEnd::on_frame(PeerId, env::Frame frame) {
  if (receiver_) receiver_(std::move(frame));
}

void LinkEnd::on_link_down(PeerId, const Error&) {
  std::lock_guard lock(mutex_);
  linked_ = false;
}

void LinkEnd::on_dial_failed(const env::Address&, const Error&) {}

Result<void> link(LinkEnd& from, LinkEnd& to, const env::Address& through) {
  run_on(from.loop(), [&] { from.transport().dial(through); });
  if (!from.wait_link() || !to.wait_link())
    return Error(Code::kUnavailable, "two ends on loopback do not link");
  return {};
}

}  // namespace mesh::bench
