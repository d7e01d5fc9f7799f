#include "node/generation.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/error_table.h"

namespace mesh::node {

ServingMetrics::ServingMetrics(metrics::Registry& r)
    : registry(r),
      prompt_tokens(r.counter("mesh_prompt_tokens_total", "Tokens of prompts that were admitted.")),
      generation_tokens(r.counter("mesh_generation_tokens_total", "Tokens of answers.")),
      first_token(r.histogram("mesh_time_to_first_token_seconds",
                              "From the request to its first token.", metrics::latency_bounds())),
      inter_token(r.histogram("mesh_inter_token_latency_seconds",
                              "Between two tokens of one choice.", metrics::latency_bounds())),
      end_to_end(r.histogram("mesh_e2e_request_latency_seconds",
                             "From a request to the end of its answer.",
                             metrics::latency_bounds())),
      prefill(r.histogram("mesh_request_prefill_time_seconds",
                          "From a request's admission to its first token.",
                          metrics::latency_bounds())),
      decode(r.histogram("mesh_request_decode_time_seconds",
                         "From a request's first token to its last.", metrics::latency_bounds())) {
  for (const char* reason : {"stop", "length", "cancelled", "error"}) finished(reason);
}

metrics::Counter& ServingMetrics::finished(std::string_view reason) const {
  return registry.counter("mesh_requests_total", "Requests that ended, by how.",
                          {{"finish_reason", std::string(reason)}});
}

// The driver's view of one sequence.
class Generation::Sequence final : public pipeline::TokenSink {
 public:
  Sequence(std::shared_ptr<Generation> owner, std::size_t index)
      : owner_(std::move(owner)), index_(index) {}
  void admitted() override { owner_->on_admitted(index_); }
  void token(const SampledToken& token) override { owner_->on_token(index_, token); }
  void stop_token(TokenId token) override { owner_->on_stop_token(index_, token); }
  void prompt_scores(std::vector<SampledToken> scores) override {
    owner_->on_prompt_scores(index_, std::move(scores));
  }
  void cached(std::uint32_t tokens) override { owner_->on_cached(index_, tokens); }
  void finished(wire::Finish reason) override { owner_->on_finished(index_, reason); }
  void failed(const Error& why) override { owner_->fail(why); }

 private:
  std::shared_ptr<Generation> owner_;
  std::size_t index_;
};

Generation::Generation(World world, std::string id, RequestPlan plan,
                       std::shared_ptr<const TextService> text, std::shared_ptr<GenerateSink> sink,
                       std::function<void()> over)
    : world_(std::move(world)),
      id_(std::move(id)),
      plan_(std::move(plan)),
      text_(std::move(text)),
      sink_(std::move(sink)),
      over_(std::move(over)),
      submitted_(world_.env.clock.now()) {}

void Generation::start(std::vector<PreparedPrompt> prompts) {
  MESH_CHECK(choices_.empty() && prompts.size() == plan_.prompts, "a request is started once");
  const bool scores = plan_.sampling.prompt_logprobs;
  choices_.resize(prompts.size() * plan_.sequences);
  open_ = choices_.size();
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    PreparedPrompt& from = prompts[p];
    Prompt prompt;
    if (scores) prompt.ids = from.ids;
    prompt.echo = std::move(from.echo);
    prompt.tokens = static_cast<std::uint32_t>(from.ids.size());
    prompt.open = plan_.sequences;
    prompts_.push_back(std::move(prompt));
    for (std::size_t j = 0; j < plan_.sequences; ++j) {
      const std::size_t index = p * plan_.sequences + j;
      Choice& choice = choices_[index];
      choice.prompt = p;
      choice.answer = std::make_unique<Answer>(
          text_->tokenizer(), AnswerOptions{plan_.stop, plan_.include_stop,
                                            plan_.sampling.min_tokens, plan_.token_texts});
      pipeline::GenerateParams params;
      params.prompt = from.ids;
      params.new_tokens_max = from.new_tokens_max;
      params.sampling = plan_.sampling;
      params.sampling.choice = static_cast<std::uint32_t>(index);
      params.sampling.min_tokens = std::min(plan_.sampling.min_tokens, from.new_tokens_max);
      choice.sequence = world_.driver.start(std::move(params),
                                            std::make_shared<Sequence>(shared_from_this(), index));
      if (!reading_) world_.driver.set_reading(choice.sequence, false);
    }
  }
}

void Generation::set_reading(bool reading) {
  if (closed_ || reading == reading_) return;
  reading_ = reading;
  for (const Choice& choice : choices_)
    if (!choice.ended) world_.driver.set_reading(choice.sequence, reading);
}

// --- what the driver tells

void Generation::on_admitted(std::size_t index) {
  Choice& choice = choices_[index];
  if (closed_ || choice.admitted) return;
  choice.admitted = true;
  if (!admitted_at_) admitted_at_ = world_.env.clock.now();
  if (index % plan_.sequences == 0)
    world_.metrics.prompt_tokens.add(prompts_[choice.prompt].tokens);
  if (++admissions_ == choices_.size()) tell_start();
  if (plan_.echo) echo(index);
}

// The first sequence of a prompt speaks for it: the others find what it has just computed.
void Generation::on_cached(std::size_t index, std::uint32_t tokens) {
  Prompt& prompt = prompts_[choices_[index].prompt];
  if (index % plan_.sequences == 0 && !prompt.cached)
    prompt.cached = std::min(tokens, prompt.tokens);
}

void Generation::echo(std::size_t index) {
  const Prompt& prompt = prompts_[choices_[index].prompt];
  Piece piece;
  piece.text = prompt.echo;
  if (plan_.sampling.prompt_logprobs)
    piece.tokens = text_->token_texts(std::span(prompt.ids).first(1));
  deliver(index, std::move(piece));
}

void Generation::on_prompt_scores(std::size_t index, std::vector<SampledToken> scores) {
  if (closed_ || !plan_.sampling.prompt_logprobs) return;
  Choice& choice = choices_[index];
  const std::vector<TokenId>& ids = prompts_[choice.prompt].ids;
  Piece piece;
  for (SampledToken& score : scores) {
    if (choice.scored >= ids.size()) break;
    score.token = ids[choice.scored++];
    piece.tokens.push_back(token_text(text_->tokenizer(), score));
  }
  deliver(index, std::move(piece));
}

void Generation::on_token(std::size_t index, const SampledToken& token) {
  Choice& choice = choices_[index];
  if (closed_ || choice.ended || plan_.score_only) return;
  count_token(choice);
  Answer::Step step = choice.answer->push(token);
  deliver(index, std::move(step.piece));
  if (!step.stop.has_value()) return;
  world_.driver.cancel(choice.sequence);
  end_choice(index, FinishReason::kStop, plan_.stop[*step.stop]);
}

void Generation::count_token(Choice& choice) {
  const Instant now = world_.env.clock.now();
  ++choice.tokens;
  world_.metrics.generation_tokens.add();
  if (choice.last_token) world_.metrics.inter_token.observe(to_seconds(now - *choice.last_token));
  choice.last_token = last_token_ = now;
  if (first_token_) return;
  first_token_ = now;
  world_.metrics.first_token.observe(to_seconds(now - submitted_));
  world_.metrics.prefill.observe(to_seconds(now - admitted_at_.value_or(submitted_)));
}

void Generation::on_stop_token(std::size_t index, TokenId token) {
  const auto& told = plan_.request_stop_ids;
  if (std::binary_search(told.begin(), told.end(), token)) choices_[index].stop_id = token;
}

void Generation::on_finished(std::size_t index, wire::Finish reason) {
  Choice& choice = choices_[index];
  if (closed_ || choice.ended) return;
  if (plan_.score_only) return end_choice(index, FinishReason::kLength, "");
  Answer::Step step = choice.answer->finish();
  deliver(index, std::move(step.piece));
  if (step.stop.has_value()) return end_choice(index, FinishReason::kStop, plan_.stop[*step.stop]);
  if (reason == wire::Finish::kLength) return end_choice(index, FinishReason::kLength, "");
  end_choice(index, FinishReason::kStop,
             choice.stop_id ? std::to_string(*choice.stop_id) : std::string());
}

// --- what the client is told

void Generation::tell_start() {
  if (std::exchange(started_told_, true)) return;
  sink_->on_start(prompt_usage());
}

void Generation::deliver(std::size_t index, Piece piece) {
  if (piece.text.empty() && piece.tokens.empty()) return;
  if (plan_.picks_best()) {
    Piece& kept = choices_[index].kept;
    kept.text += piece.text;
    std::move(piece.tokens.begin(), piece.tokens.end(), std::back_inserter(kept.tokens));
    return;
  }
  tell_start();
  sink_->on_piece(static_cast<std::uint32_t>(index), std::move(piece));
}

void Generation::end_choice(std::size_t index, FinishReason reason, std::string stop) {
  Choice& choice = choices_[index];
  choice.ended = true;
  choice.reason = reason;
  choice.stop = std::move(stop);
  --open_;
  const bool prompt_over = --prompts_[choice.prompt].open == 0;
  if (!plan_.picks_best())
    show_end(static_cast<std::uint32_t>(index), choice);
  else if (prompt_over)
    show_best(choice.prompt);
  if (open_ == 0) end();
}

void Generation::show_best(std::size_t prompt) {
  std::vector<double> means;
  for (std::size_t j = 0; j < plan_.sequences; ++j)
    means.push_back(choices_[prompt * plan_.sequences + j].answer->mean_logprob());
  auto number = static_cast<std::uint32_t>(prompt * plan_.choices);
  for (const std::size_t j : choose_best(means, plan_.choices)) {
    Choice& choice = choices_[prompt * plan_.sequences + j];
    tell_start();
    if (!choice.kept.text.empty() || !choice.kept.tokens.empty())
      sink_->on_piece(number, std::exchange(choice.kept, {}));
    show_end(number++, choice);
  }
  for (std::size_t j = 0; j < plan_.sequences; ++j)
    choices_[prompt * plan_.sequences + j].kept = {};
}

void Generation::show_end(std::uint32_t number, const Choice& choice) {
  completion_tokens_ += choice.answer->tokens();
  any_length_ = any_length_ || choice.reason == FinishReason::kLength;
  tell_start();
  sink_->on_choice_end(number, choice.reason, choice.stop);
}

Usage Generation::prompt_usage() const {
  Usage usage;
  for (const Prompt& prompt : prompts_) {
    usage.prompt_tokens += prompt.tokens;
    usage.cached_tokens += prompt.cached.value_or(0);
  }
  return usage;
}

// --- the end

void Generation::end() {
  if (!close()) return;
  Usage usage = prompt_usage();
  usage.completion_tokens = completion_tokens_;
  Timings timings;
  timings.queue = admitted_at_.value_or(submitted_) - submitted_;
  if (first_token_) {
    timings.prompt = *first_token_ - submitted_;
    timings.generation = *last_token_ - *first_token_;
    world_.metrics.decode.observe(to_seconds(timings.generation));
  }
  world_.metrics.end_to_end.observe(to_seconds(world_.env.clock.now() - submitted_));
  record(any_length_ ? "length" : "stop", nullptr);
  sink_->on_end(usage, timings);
}

void Generation::fail(const Error& why) {
  if (!close()) return;
  cancel_sequences();
  record("error", &why);
  sink_->on_error(why);
}

void Generation::cancel() {
  if (!close()) return;
  cancel_sequences();
  record("cancelled", nullptr);
}

void Generation::abandon() {
  if (std::exchange(closed_, true)) return;
  cancel_sequences();
}

bool Generation::close() {
  if (std::exchange(closed_, true)) return false;
  over_();
  return true;
}

void Generation::cancel_sequences() {
  for (const Choice& choice : choices_)
    if (!choice.ended) world_.driver.cancel(choice.sequence);
}

void Generation::record(std::string_view finish, const Error* why) {
  world_.metrics.finished(finish).add();
  std::uint64_t tokens = 0;
  for (const Choice& choice : choices_) tokens += choice.tokens;
  const Usage usage = prompt_usage();
  std::vector<Field> fields = {{"id", id_},
                               {"prompt", usage.prompt_tokens},
                               {"cached", usage.cached_tokens},
                               {"tokens", tokens}};
  if (first_token_) {
    fields.emplace_back("ttft_ms", to_milliseconds(*first_token_ - submitted_));
    const double generated = to_seconds(*last_token_ - *first_token_);
    if (generated > 0) fields.emplace_back("tokens_per_s", static_cast<double>(tokens) / generated);
  }
  if (choices_.size() > 1) fields.emplace_back("choices", choices_.size());
  fields.emplace_back("finish", finish);
  if (why != nullptr) fields.emplace_back("why", code_name(why->code));
  world_.env.events.emit(Level::kInfo, "request.done", std::move(fields));
}

}  // namespace mesh::node
