#pragma once
// The part of the entry that owns a request: keeps it in the waiting room until the stages have
// pages for it (pipeline/admission.h), opens the route, sends the prompt to stage 0, takes the
// sampled tokens that the last stage returns directly, asks for more pages and gives credit as the
// answer grows, and ends the sequence on every stage.
//
// A sequence may lead several lives: one that loses its pages to an older one, or whose reader has
// been behind for long, is closed on every stage and later opened again with the tokens it has
// emitted. Each life has a wire id of its own, so that what is late from an earlier one is never
// taken for the present one's. Control loop only.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/metrics.h"
#include "base/result.h"
#include "env/env.h"
#include "kvcache/prefix_keys.h"
#include "pipeline/admission.h"
#include "wire/messages.h"

namespace mesh::pipeline {

struct GenerateParams {
  std::vector<TokenId> prompt;       // not empty
  std::uint32_t new_tokens_max = 0;  // ≥ 1; prompt + new ≤ context
  SamplingParams sampling;
};

// Receives one sequence: cached and admitted once, then prompt scores if they were asked for and
// tokens, each in order, then exactly one of finished and failed; or failed alone.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // So many positions of the prompt need not be computed. Just before admitted().
  virtual void cached(std::uint32_t /*positions*/) {}
  // Every stage has reserved its pages, for the first time.
  virtual void admitted() = 0;
  // The tokens at positions 1, 2, … of the prompt, in order and in parts: with
  // SamplingParams::prompt_logprobs.
  virtual void prompt_scores(std::vector<SampledToken> /*scores*/) {}
  virtual void token(const SampledToken& token) = 0;  // a stop token is not delivered
  // The stop token that ends the sequence; right before finished(kStop).
  virtual void stop_token(TokenId) {}
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

struct DriverOptions {
  std::size_t max_waiting = limits::kWaitingRequests;  // sequences; beyond it start() fails
};

class Driver {
 public:
  // `choose_route` answers from the node's present view; its error is a new request's error. One
  // that waits already is kept for limits::kRouteRetry if the error is retryable.
  Driver(env::Env& env, std::function<Result<RouteChoice>()> choose_route,
         DriverOptions options = {});

  // Starts a sequence; failures, also immediate ones, arrive at the sink on a later turn of the
  // loop: resource_exhausted (retryable) when too many wait.
  // The handle stays the same through all lives.
  SequenceId start(GenerateParams params, std::shared_ptr<TokenSink> sink);
  // Ends it everywhere; nothing more reaches the sink. Unknown sequences are ignored.
  void cancel(SequenceId sequence);
  // Whether the reader keeps up. While it does not, at most limits::kCreditWindow more tokens are
  // made; after limits::kParkedRelease without one the pages are given up.
  void set_reading(SequenceId sequence, bool reading);

  void on_open_reply(PeerId from, const wire::OpenReply& reply);  // to OPEN and to EXTEND
  void on_tokens(PeerId from, const wire::Tokens& tokens);
  void on_scores(PeerId from, const wire::Scores& scores);
  // A sequence that a stage has no pages for any more (resource_exhausted, retryable) is replayed,
  // any other fails.
  void on_fail(PeerId from, const wire::Fail& fail);
  // Every sequence whose route has this peer ends with a typed error now.
  void on_peer_down(PeerId peer, const Error& why);
  // Deadlines; call at least every 100 ms.
  void tick(Instant now);

  std::size_t running() const { return running_; }                     // with pages reserved
  std::size_t waiting() const { return requests_.size() - running_; }  // all others
  std::size_t parked() const;                                          // for want of a reader
  std::uint64_t preemptions() const { return preemptions_; }           // for want of pages
  std::uint64_t releases() const { return releases_; }                 // for want of a reader
  std::uint64_t replays() const { return replays_; }                   // of either
  // Tokens delivered per second over the last second or so.
  double tokens_per_s() const { return tokens_per_s_; }
  // When a place in the waiting room may be free: 1 to 60.
  std::uint32_t retry_after_s() const;

 private:
  enum class Phase : std::uint8_t { kStarting, kWaiting, kReleased, kOpening, kRunning };
  // What one stage has answered in the present life.
  struct StageState {
    bool opened = false;
    std::uint32_t cached = 0;
    std::uint32_t granted = 0;     // positions
    std::optional<Instant> asked;  // EXTEND is under way since
  };
  struct Request {
    Phase phase = Phase::kStarting;
    GenerateParams params;
    std::shared_ptr<TokenSink> sink;
    Instant started;
    std::vector<TokenId> emitted;
    std::uint32_t scored = 1;  // position of the next score of the prompt for the sink
    bool admitted = false;
    bool reading = true;
    std::optional<Error> refused;  // why it waits
    std::vector<kvcache::PageKey> keys;
    // The present life.
    SequenceId wire;
    RouteChoice route;
    std::vector<StageState> stages;  // in the route's order
    Instant open_deadline;
    std::uint32_t positions_max = 0;  // asked of every stage
    std::uint32_t credit = 0;
    std::uint32_t next_score = 1;
    std::optional<Instant> parked;  // since when all credit is used and the reader is behind

    std::uint32_t prompt_tokens() const { return static_cast<std::uint32_t>(params.prompt.size()); }
    // Positions whose tokens are known.
    std::uint32_t known() const {
      return prompt_tokens() + static_cast<std::uint32_t>(emitted.size());
    }
    std::uint32_t end() const { return prompt_tokens() + params.new_tokens_max; }
    bool wants_scores() const {
      return params.sampling.prompt_logprobs && scored < prompt_tokens();
    }
    bool open() const { return phase == Phase::kOpening || phase == Phase::kRunning; }
  };

  void begin(SequenceId handle);
  void advise(AdmissionInput input);
  void apply(const AdmissionActions& actions);
  void arm();
  void open_route(SequenceId handle);
  wire::Open open_message(Request& request) const;
  void update_keys(Request& request) const;
  void opened(SequenceId handle, Request& request, std::size_t stage, const wire::OpenReply& reply);
  void open_refused(SequenceId handle, Request& request, const Error& why);
  void send_prompt(SequenceId handle);
  void extended(SequenceId handle, Request& request, std::size_t stage,
                const wire::OpenReply& reply);
  void extend(SequenceId handle);
  void extend_if_due(SequenceId handle);
  void give_credit(SequenceId handle);
  void accept_token(SequenceId handle, const wire::TokenRow& row, PeerId from);
  void preempt(SequenceId handle);
  void count_preemption(SequenceId handle, const Request& request);
  void out_of_pages(SequenceId handle, const Error& why);
  void set_aside(SequenceId handle);
  void finish(SequenceId handle, wire::Finish reason);
  void fail(SequenceId handle, const Error& why);
  std::shared_ptr<TokenSink> take_out(SequenceId handle);
  void close_life(Request& request);
  bool send(PeerId to, env::Frame frame, SequenceId handle);
  // Of the life that a message names; requests_.end() when it is over.
  std::map<SequenceId, Request>::iterator of_wire(SequenceId wire);
  SequenceId draw_id();
  std::optional<Error> overdue(const Request& request, Instant now) const;
  void measure(Instant now);

  env::Env& env_;
  std::function<Result<RouteChoice>()> choose_route_;
  Admission admission_;
  std::map<SequenceId, Request> requests_;    // by handle
  std::map<SequenceId, SequenceId> handles_;  // by the present life's wire id
  std::size_t running_ = 0;                   // requests in phase kRunning
  std::deque<AdmissionInput> inputs_;         // for admission_, while it is being obeyed
  bool advising_ = false;
  env::TimerHandle wake_;
  std::optional<Error> no_route_;
  std::uint64_t preemptions_ = 0, releases_ = 0, replays_ = 0;
  metrics::Counter& preemptions_total_;
  metrics::Counter& reader_behind_total_;
  metrics::Histogram& queue_time_;
  std::uint64_t tokens_in_window_ = 0;
  Instant window_start_;
  double tokens_per_s_ = 0;
  double usual_tokens_per_s_ = 0;  // smoothed, of seconds in which something ran
  // Guards what is posted or called back, which may come after the driver is gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace mesh::pipeline
