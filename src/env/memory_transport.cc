#include "env/memory_transport.h"

#include <map>
#include <mutex>
#include <set>

#include "base/limits.h"

namespace mesh::env {

// The handler is read on the endpoint's loop only; tasks hold the endpoint, and find no handler
// once the transport is gone.
struct MemoryTransport::Endpoint {
  PeerId id;
  Address address;
  Loop& loop;
  TransportHandler* handler = nullptr;
};

struct MemoryNetwork::State {
  using EndpointPtr = std::shared_ptr<MemoryTransport::Endpoint>;
  using Pair = std::pair<PeerId, PeerId>;
  static Pair pair_of(PeerId a, PeerId b) { return a < b ? Pair{a, b} : Pair{b, a}; }

  std::mutex mutex;
  std::map<PeerId, EndpointPtr> endpoints;
  std::set<Pair> links;
};

namespace {

template <typename EndpointPtr, typename Call>
void tell(const EndpointPtr& endpoint, Call call) {
  endpoint->loop.post([endpoint, call = std::move(call)]() mutable {
    if (endpoint->handler != nullptr) call(*endpoint->handler);
  });
}

}  // namespace

Frame copy_of(const Frame& frame) {
  Frame copy;
  copy.type = frame.type;
  copy.flags = frame.flags;
  copy.priority = frame.priority;
  copy.stream = frame.stream;
  copy.header = Buffer::copy_of(frame.header.span());
  copy.payload = Buffer::copy_of(frame.payload.span());
  return copy;
}

MemoryNetwork::MemoryNetwork() : state_(std::make_shared<State>()) {}
MemoryNetwork::~MemoryNetwork() = default;

std::unique_ptr<MemoryTransport> MemoryNetwork::attach(PeerId self, Address address, Loop& loop) {
  auto endpoint = std::make_shared<MemoryTransport::Endpoint>(
      MemoryTransport::Endpoint{self, std::move(address), loop});
  {
    std::lock_guard lock(state_->mutex);
    const bool fresh = state_->endpoints.emplace(self, endpoint).second;
    MESH_CHECK(fresh, "{} is attached already", self.short_name());
  }
  return std::unique_ptr<MemoryTransport>(new MemoryTransport(state_, std::move(endpoint)));
}

MemoryTransport::MemoryTransport(std::shared_ptr<MemoryNetwork::State> network,
                                 std::shared_ptr<Endpoint> endpoint)
    : network_(std::move(network)), endpoint_(std::move(endpoint)) {}

MemoryTransport::~MemoryTransport() {
  std::vector<std::shared_ptr<Endpoint>> left;
  const PeerId id = endpoint_->id;
  {
    std::lock_guard lock(network_->mutex);
    network_->endpoints.erase(id);
    std::erase_if(network_->links, [&](const auto& link) {
      if (link.first != id && link.second != id) return false;
      left.push_back(network_->endpoints.at(link.first == id ? link.second : link.first));
      return true;
    });
  }
  endpoint_->handler = nullptr;
  for (const auto& peer : left)
    tell(peer, [id](TransportHandler& handler) {
      handler.on_link_down(id, Error(Code::kUnavailable, id.short_name() + " is gone"));
    });
}

PeerId MemoryTransport::self() const {
  return endpoint_->id;
}

void MemoryTransport::set_handler(TransportHandler* handler) {
  endpoint_->handler = handler;
}

void MemoryTransport::dial(const Address& address) {
  std::shared_ptr<Endpoint> target;
  std::optional<Error> failure;
  {
    std::lock_guard lock(network_->mutex);
    for (const auto& [id, endpoint] : network_->endpoints)
      if (endpoint->address == address) target = endpoint;
    if (!target)
      failure.emplace(Code::kUnavailable,
                      fmt::format("could not reach {}: connection refused", address.to_string()),
                      true);
    else if (target == endpoint_)
      failure.emplace(Code::kInvalidArgument, address.to_string() + " is this node itself");
    else if (!network_->links.insert(MemoryNetwork::State::pair_of(self(), target->id)).second)
      failure.emplace(Code::kCancelled, fmt::format("{} is already linked as {}",
                                                    address.to_string(), target->id.short_name()));
  }
  if (failure) {
    tell(endpoint_, [address, why = *failure](TransportHandler& handler) {
      handler.on_dial_failed(address, why);
    });
    return;
  }
  tell(endpoint_, [info = LinkInfo{target->id, address, true}](TransportHandler& handler) {
    handler.on_link_up(info);
  });
  tell(target, [info = LinkInfo{self(), endpoint_->address, false}](TransportHandler& handler) {
    handler.on_link_up(info);
  });
}

Result<void> MemoryTransport::send(PeerId to, Frame frame) {
  if (frame.header.size() > limits::kFrameHeaderBytes ||
      frame.payload.size() > limits::kFramePayloadBytes)
    return Error(Code::kInvalidArgument, fmt::format("a frame of {} + {} bytes is over the limit",
                                                     frame.header.size(), frame.payload.size()));
  std::shared_ptr<Endpoint> target;
  {
    std::lock_guard lock(network_->mutex);
    const bool linked = network_->links.count(MemoryNetwork::State::pair_of(self(), to)) > 0;
    if (to == self())
      target = endpoint_;
    else if (linked)
      target = network_->endpoints.at(to);
  }
  if (!target) return Error(Code::kNotFound, fmt::format("no link to {}", to.short_name()), true);
  auto shared = std::make_shared<Frame>(copy_of(frame));
  tell(target, [from = self(), shared](TransportHandler& handler) {
    handler.on_frame(from, std::move(*shared));
  });
  return {};
}

void MemoryTransport::close(PeerId peer, const Error& why) {
  std::shared_ptr<Endpoint> other;
  {
    std::lock_guard lock(network_->mutex);
    if (network_->links.erase(MemoryNetwork::State::pair_of(self(), peer)) == 0) return;
    other = network_->endpoints.at(peer);
  }
  tell(endpoint_, [peer, why](TransportHandler& handler) { handler.on_link_down(peer, why); });
  const Error theirs =
      Error(Code::kUnavailable, self().short_name() + " closed the link: " + why.message, true);
  tell(other,
       [id = self(), theirs](TransportHandler& handler) { handler.on_link_down(id, theirs); });
}

}  // namespace mesh::env
