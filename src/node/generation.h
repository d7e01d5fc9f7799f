#pragma once
// One request that the gateway has taken: its sequences, its choices, what is counted of it and how
// it ends.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "env/env.h"
#include "node/answer.h"
#include "node/gateway.h"
#include "node/request_plan.h"
#include "node/text_service.h"
#include "pipeline/driver.h"

namespace mesh::node {

// What is counted over all requests of a node.
struct ServingMetrics {
  explicit ServingMetrics(metrics::Registry& registry);
  metrics::Counter& finished(std::string_view reason) const;  // stop, length, cancelled, error

  metrics::Registry& registry;
  metrics::Counter& prompt_tokens;
  metrics::Counter& generation_tokens;
  metrics::Histogram& first_token;
  metrics::Histogram& inter_token;
  metrics::Histogram& end_to_end;
  metrics::Histogram& prefill;
  metrics::Histogram& decode;
};

// A prompt as it goes to the mesh.
struct PreparedPrompt {
  std::vector<TokenId> ids;          // not empty
  std::uint32_t new_tokens_max = 0;  // ≥ 1
  std::string echo;                  // its text, when the request echoes
};

// Lives from the request's arrival to its end, which is told to the gateway's sink exactly once:
// when every choice has ended, when one sequence fails (the others are cancelled), or by fail();
// after cancel() and abandon() nothing more is told. A stop string ends its sequence everywhere.
// When more sequences are made than choices are shown, the texts of a prompt come when all of its
// sequences have ended. Control loop only; a shared_ptr owns it, sequences under way included.
class Generation : public std::enable_shared_from_this<Generation> {
 public:
  // What it may ask for; pipeline::Driver has these three under the same names.
  struct Sequences {
    std::function<SequenceId(pipeline::GenerateParams, std::shared_ptr<pipeline::TokenSink>)> start;
    std::function<void(SequenceId)> cancel;
    std::function<void(SequenceId, bool)> set_reading;
  };
  struct World {
    env::Env& env;
    ServingMetrics& metrics;
    Sequences driver;
  };
  // `over` is called once, right before the sink hears of the end: from then on the request's id is
  // free.
  Generation(World world, std::string id, RequestPlan plan, std::shared_ptr<const TextService> text,
             std::shared_ptr<GenerateSink> sink, std::function<void()> over);

  // All sequences go to the driver; once.
  void start(std::vector<PreparedPrompt> prompts);
  void set_reading(bool reading);
  void fail(const Error& why);
  void cancel();   // the client has gone
  void abandon();  // the gateway goes: nothing is told or counted

  const RequestPlan& plan() const { return plan_; }
  const std::shared_ptr<const TextService>& text() const { return text_; }
  Instant submitted() const { return submitted_; }
  bool encoding() const { return choices_.empty(); }
  bool admitted() const { return admitted_at_.has_value(); }

 private:
  class Sequence;
  struct Choice {
    SequenceId sequence;
    std::size_t prompt = 0;
    std::unique_ptr<Answer> answer;
    std::size_t scored = 1;  // tokens of an echoed prompt that were shown
    std::optional<Instant> last_token;
    std::uint32_t tokens = 0;        // that arrived
    std::optional<TokenId> stop_id;  // asked for by the request
    bool admitted = false, ended = false;
    FinishReason reason = FinishReason::kStop;
    std::string stop;
    Piece kept;  // until the best are picked
  };
  struct Prompt {
    std::vector<TokenId> ids;  // when they are echoed with scores
    std::string echo;
    std::uint32_t tokens = 0;
    std::optional<std::uint32_t> cached;
    std::size_t open = 0;  // sequences that have not ended
  };

  void on_admitted(std::size_t index);
  void on_cached(std::size_t index, std::uint32_t tokens);
  void on_prompt_scores(std::size_t index, std::vector<SampledToken> scores);
  void on_token(std::size_t index, const SampledToken& token);
  void on_stop_token(std::size_t index, TokenId token);
  void on_finished(std::size_t index, wire::Finish reason);

  void count_token(Choice& choice);
  void echo(std::size_t index);
  void deliver(std::size_t index, Piece piece);
  void end_choice(std::size_t index, FinishReason reason, std::string stop);
  void show_best(std::size_t prompt);
  void show_end(std::uint32_t number, const Choice& choice);
  void tell_start();
  void end();
  void cancel_sequences();
  bool close();  // false when it was closed already
  void record(std::string_view finish, const Error* why);
  Usage prompt_usage() const;

  World world_;
  std::string id_;
  RequestPlan plan_;
  std::shared_ptr<const TextService> text_;
  std::shared_ptr<GenerateSink> sink_;
  std::function<void()> over_;
  Instant submitted_;
  std::vector<Prompt> prompts_;
  std::vector<Choice> choices_;  // sequences: prompt · plan_.sequences + j
  std::size_t admissions_ = 0, open_ = 0;
  std::optional<Instant> admitted_at_, first_token_, last_token_;
  std::uint32_t completion_tokens_ = 0;  // of the choices shown
  bool any_length_ = false;
  bool reading_ = true, started_told_ = false, closed_ = false;
};

}  // namespace mesh::node
