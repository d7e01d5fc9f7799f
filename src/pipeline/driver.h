#pragma once
// The part of the entry that owns a request: opens the route, sends the prompt to stage 0, takes
// the sampled tokens that the last stage returns directly, and ends the sequence on every stage. It
// keeps prompt and emitted tokens, from which the request could be run again. Control loop only.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "env/env.h"
#include "wire/messages.h"

namespace mesh::pipeline {

struct GenerateParams {
  std::vector<TokenId> prompt;       // not empty
  std::uint32_t new_tokens_max = 0;  // ≥ 1; prompt + new ≤ context
  SamplingParams sampling;
};

// Receives one sequence: admitted once, then tokens in order, then exactly one of finished and
// failed; or failed alone. What has an empty body here is told only to sinks that want it.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void admitted() = 0;
  virtual void token(const SampledToken& token) = 0;  // a stop token is not delivered
  // The stop token that ends the sequence; right before finished(kStop).
  virtual void stop_token(TokenId) {}
  // Tokens of the prompt after the first, in order and before the first token of the answer
  // (SamplingParams::prompt_logprobs).
  virtual void prompt_scores(std::vector<SampledToken>) {}
  // So many tokens of the prompt were found in the prefix cache; before admitted().
  virtual void cached(std::uint32_t) {}
  virtual void finished(wire::Finish reason) = 0;
  virtual void failed(const Error& why) = 0;
};

// A covering route on ready nodes and what its stages must agree on.
struct RouteChoice {
  Epoch epoch;
  std::uint64_t fingerprint = 0;
  std::string numeric_class;
  std::vector<wire::StageAssignment> stages;
};

class Driver {
 public:
  // `choose_route` answers from the node's present view; its error is the request's error.
  Driver(env::Env& env, std::function<Result<RouteChoice>()> choose_route);

  // Starts a sequence; failures, also immediate ones, arrive at the sink on a later turn of the
  // loop.
  SequenceId start(GenerateParams params, std::shared_ptr<TokenSink> sink);
  // Ends it everywhere; nothing more reaches the sink. Unknown sequences are ignored.
  void cancel(SequenceId sequence);
  // Whether its client keeps up.
  void set_reading(SequenceId sequence, bool reading);

  void on_open_reply(PeerId from, const wire::OpenReply& reply);
  void on_tokens(PeerId from, const wire::Tokens& tokens);
  void on_fail(PeerId from, const wire::Fail& fail);
  // Every sequence whose route has this peer ends with a typed error now.
  void on_peer_down(PeerId peer, const Error& why);
  // Deadlines; call at least every 100 ms.
  void tick(Instant now);

  std::size_t running() const { return requests_.size(); }
  // Sequences whose stages have not all admitted them yet.
  std::size_t waiting() const;
  // In how many seconds a further request is likely to be admitted, at least 1.
  std::uint32_t retry_after_s() const { return 1; }
  // Tokens delivered per second over the last second or so.
  double tokens_per_s() const { return tokens_per_s_; }

 private:
  enum class Phase { kStarting, kOpening, kRunning };
  struct Request {
    Phase phase = Phase::kStarting;
    GenerateParams params;
    std::shared_ptr<TokenSink> sink;
    RouteChoice route;
    std::vector<bool> opened;  // per stage
    std::vector<TokenId> emitted;
    Instant started;
    Instant deadline;  // of the present phase
  };

  void open_route(SequenceId sequence, Request& request);
  void send_prompt(SequenceId sequence, Request& request);
  void accept_token(SequenceId sequence, const wire::TokenRow& row, PeerId from);
  void finish(SequenceId sequence, wire::Finish reason);
  void fail(SequenceId sequence, const Error& why);
  void close_stages(SequenceId sequence, const Request& request);
  void send(PeerId to, env::Frame frame, SequenceId sequence);

  env::Env& env_;
  std::function<Result<RouteChoice>()> choose_route_;
  std::map<SequenceId, Request> requests_;
  std::uint64_t tokens_in_window_ = 0;
  Instant window_start_;
  double tokens_per_s_ = 0;
  // Guards the posted start of a sequence, which may run after the driver is gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace mesh::pipeline
