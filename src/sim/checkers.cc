#include "sim/checkers.h"

#include "base/time.h"

namespace mesh::sim {

void Violations::add(std::string sentence) {
  ++count_;
  if (sentences_.size() < kKept) sentences_.push_back(std::move(sentence));
}

RequestChecker::Request* RequestChecker::find(const std::string& request, const char* what) {
  const auto it = requests_.find(request);
  if (it == requests_.end()) {
    violations_.add(fmt::format("{} of {}, which was never admitted", what, request));
    return nullptr;
  }
  if (it->second.over) {
    violations_.add(fmt::format("{} of {} after its end", what, request));
    return nullptr;
  }
  return &it->second;
}

void RequestChecker::admitted(const std::string& request, Instant now, Instant deadline,
                              std::vector<TokenId> expected) {
  if (deadline < now) violations_.add(request + " is admitted after its deadline");
  if (!requests_.emplace(request, Request{deadline, std::move(expected), 0, false}).second)
    violations_.add(request + " is admitted twice");
}

void RequestChecker::token(const std::string& request, std::size_t index, TokenId token) {
  Request* const state = find(request, "a token");
  if (state == nullptr) return;
  if (index != state->tokens)
    violations_.add(fmt::format("{}: token {} follows token {}", request, index,
                                static_cast<std::int64_t>(state->tokens) - 1));
  state->tokens = index + 1;
  if (state->expected.empty()) return;
  if (index >= state->expected.size())
    violations_.add(fmt::format("{}: token {} of {}", request, index, state->expected.size()));
  else if (state->expected[index] != token)
    violations_.add(
        fmt::format("{}: token {} is {}, not {}", request, index, token, state->expected[index]));
}

void RequestChecker::close(const std::string& request, Request& state, Instant now) {
  state.over = true;
  if (now > state.deadline)
    violations_.add(fmt::format("{} ends {:.3f} s after its deadline", request,
                                to_seconds(now - state.deadline)));
}

void RequestChecker::ended(const std::string& request, Instant now) {
  Request* const state = find(request, "the end");
  if (state == nullptr) return;
  ++ended_;
  close(request, *state, now);
  if (!state->expected.empty() && state->tokens != state->expected.size())
    violations_.add(fmt::format("{} ends after {} of {} tokens", request, state->tokens,
                                state->expected.size()));
}

void RequestChecker::failed(const std::string& request, Instant now, const Error& error) {
  Request* const state = find(request, "an error");
  if (state == nullptr) return;
  ++failed_;
  close(request, *state, now);
  if (error.message.empty()) violations_.add(request + " fails without a reason");
  if (error.code == Code::kInternal)
    violations_.add(fmt::format("{} fails by our own fault: {}", request, error.message));
}

void RequestChecker::left(const std::string& request) {
  Request* const state = find(request, "the leaving");
  if (state == nullptr) return;
  ++left_;
  state->over = true;
}

void RequestChecker::finish() {
  for (const auto& [request, state] : requests_)
    if (!state.over) violations_.add(request + " never ended");
}

void check_route(const std::vector<wire::StageAssignment>& stages, Epoch epoch,
                 std::uint32_t layers, const scheduler::Nodes& nodes, Violations& violations) {
  std::uint32_t next = 0;
  for (const wire::StageAssignment& stage : stages) {
    if (stage.layers.begin != next || stage.layers.empty())
      violations.add(
          fmt::format("stage {} does not continue layer {}", stage.layers.to_string(), next));
    next = stage.layers.end;
    const wire::NodeRecord* holder = nullptr;
    for (const scheduler::NodeView& node : nodes)
      if (node.record.node == stage.node) holder = &node.record;
    if (holder == nullptr || holder->epoch != epoch || holder->layers.begin > stage.layers.begin ||
        holder->layers.end < stage.layers.end)
      violations.add(fmt::format("node {} does not hold {} in epoch {}", stage.node.short_name(),
                                 stage.layers.to_string(), epoch.value));
  }
  if (next != layers) violations.add(fmt::format("a route ends at layer {} of {}", next, layers));
}

void check_pages(const std::string& node, std::uint32_t used, std::uint32_t total, bool idle,
                 Violations& violations) {
  if (used > total) violations.add(fmt::format("{} uses {} of {} pages", node, used, total));
  if (idle && used != 0) violations.add(fmt::format("{} is idle and uses {} pages", node, used));
}

void check_limit(const std::string& what, std::size_t size, std::size_t limit,
                 Violations& violations) {
  if (size > limit) violations.add(fmt::format("{}: {}, the limit is {}", what, size, limit));
}

void EpochChecker::seen(const std::string& node, Epoch epoch) {
  Epoch& newest = newest_[node];
  if (epoch < newest)
    violations_.add(fmt::format("{} falls from epoch {} to {}", node, newest.value, epoch.value));
  newest = std::max(newest, epoch);
}

}  // namespace mesh::sim
