#pragma once
// A client that notes when its tokens came.

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/time.h"
#include "pipeline/driver.h"

namespace mesh::measure {

class Stream final : public pipeline::TokenSink {
 public:
  void admitted() override {}
  void token(const SampledToken& token) override;
  void finished(wire::Finish reason) override;
  void failed(const Error& why) override;

  // Any thread: when each token came, so far.
  std::vector<Instant> times() const;
  // Wait for `count` tokens, or for the end. Errors: the request's own, deadline_exceeded.
  Result<void> wait_tokens(std::size_t count) const;
  Result<void> wait_end() const;

 private:
  Result<void> wait(const std::function<bool()>& seen) const;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<Instant> times_;
  bool ended_ = false;
  std::optional<Error> error_;
};

// Milliseconds between consecutive tokens that both came in [begin, end).
std::vector<double> gaps_ms(const std::vector<Instant>& times, Instant begin, Instant end);
// Mean milliseconds per token after the first; 0 for fewer than two.
double ms_per_token(const std::vector<Instant>& times);

}  // namespace mesh::measure
