#include "node/serving.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "text/detokenizer.h"

namespace mesh::node {

// One answer on its way out: detokenises, counts, and tells the client's sink.
class Serving::Answer : public pipeline::TokenSink {
 public:
  Answer(Serving& serving, std::string request_id, std::shared_ptr<GenerateSink> sink,
         std::shared_ptr<const TextService> text, std::uint32_t prompt_tokens, Instant submitted)
      : serving_(serving),
        request_id_(std::move(request_id)),
        sink_(std::move(sink)),
        text_(std::move(text)),
        detokenizer_(text_->tokenizer(), /*skip_special=*/true),
        submitted_(submitted) {
    usage_.prompt_tokens = prompt_tokens;
  }

  void admitted() override { sink_->on_start(usage_); }

  void token(const SampledToken& token) override {
    const Instant now = serving_.env_.clock.now();
    if (usage_.completion_tokens == 0) first_ = now;
    last_ = now;
    ++usage_.completion_tokens;
    std::string piece = detokenizer_.push(token.token);
    if (!piece.empty()) sink_->on_piece(0, {std::move(piece), {}});
  }

  void finished(wire::Finish reason) override {
    std::string rest = detokenizer_.finish();
    if (!rest.empty()) sink_->on_piece(0, {std::move(rest), {}});
    Timings timings;
    if (usage_.completion_tokens > 0) {
      timings.prompt = first_ - submitted_;
      timings.generation = last_ - first_;
    }
    serving_.requests_.erase(request_id_);
    sink_->on_choice_end(
        0, reason == wire::Finish::kLength ? FinishReason::kLength : FinishReason::kStop, "");
    sink_->on_end(usage_, timings);
  }

  void failed(const Error& why) override { serving_.fail(request_id_, why); }

 private:
  Serving& serving_;
  std::string request_id_;
  std::shared_ptr<GenerateSink> sink_;
  std::shared_ptr<const TextService> text_;
  text::Detokenizer detokenizer_;
  Usage usage_;
  Instant submitted_, first_, last_;
};

Serving::Serving(env::Env& env, MeshNode& node, env::BlockingPool& blocking)
    : env_(env), node_(node), blocking_(blocking), status_(std::make_shared<MeshStatus>()) {}

// The driver's sinks refer to this object.
Serving::~Serving() {
  for (const auto& [id, entry] : requests_)
    if (entry.sequence.has_value()) node_.driver().cancel(*entry.sequence);
}

void Serving::set_text(std::shared_ptr<const TextService> text, std::vector<TokenId> stop_ids) {
  text_ = std::move(text);
  stop_ids_ = std::move(stop_ids);
}

void Serving::generate(GenerateRequest request, std::shared_ptr<GenerateSink> sink) {
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_), request = std::move(request),
                  sink = std::move(sink)]() mutable {
    if (alive.expired()) return;
    if (shut_down_.has_value()) return sink->on_error(*shut_down_);
    if (requests_.contains(request.request_id))
      return sink->on_error(Error(Code::kInvalidArgument,
                                  fmt::format("request {} runs already", request.request_id)));
    if (requests_.size() >= node_.max_queue())
      return sink->on_error(Error(
          Code::kResourceExhausted,
          fmt::format("{} requests are running or waiting on this node", requests_.size()), true));
    if (const Result<pipeline::RouteChoice> route = node_.choose_route(); !route.ok())
      return sink->on_error(route.error());
    if (!text_)
      return sink->on_error(Error(Code::kUnavailable, "the model is still being loaded", true));
    requests_[request.request_id] = Entry{sink, std::nullopt, env_.clock.now()};
    encode(std::move(request), text_);
  });
}

void Serving::encode(GenerateRequest request, std::shared_ptr<const TextService> text) {
  const std::string id = request.request_id;
  const std::int64_t now_s = env_.clock.unix_milliseconds() / 1000;
  const Result<void> queued =
      blocking_.submit([this, alive = std::weak_ptr<bool>(alive_), now_s,
                        request = std::move(request), text = std::move(text)] {
        auto prompt = std::make_shared<Result<std::vector<TokenId>>>(
            text->encode_chat(std::get<ChatPrompt>(request.prompts.front()), now_s));
        env_.loop.post([this, alive, request, prompt] {
          if (!alive.expired()) start(request, std::move(*prompt));
        });
      });
  if (!queued.ok()) fail(id, queued.error());
}

// How long the answer may get: what the client asks for, within the context and, as pages are
// reserved for the whole length, within what the nodes of the route can hold at all.
Result<std::uint32_t> Serving::new_tokens(const GenerateRequest& request,
                                          std::size_t prompt) const {
  const std::uint32_t context = node_.context();
  if (prompt == 0)
    return Error(Code::kInvalidArgument, "the prompt is empty after the chat template");
  if (request.max_tokens == 0u) return Error(Code::kInvalidArgument, "max_tokens must not be 0");
  if (prompt >= context)
    return Error(
        Code::kInvalidArgument,
        fmt::format("context_length_exceeded: the prompt has {} tokens, the model's context is {}",
                    prompt, context));
  MESH_ASSIGN_OR_RETURN(const pipeline::RouteChoice route, node_.choose_route());
  const std::uint32_t positions = node_.positions_max(route);
  if (prompt >= positions)
    return Error(Code::kInvalidArgument,
                 fmt::format("context_length_exceeded: the prompt has {} tokens, the memory of the "
                             "mesh holds {} of the model's context of {}",
                             prompt, positions, context));
  return std::min(request.max_tokens.value_or(context),
                  positions - static_cast<std::uint32_t>(prompt));
}

void Serving::start(const GenerateRequest& request, Result<std::vector<TokenId>> prompt) {
  const auto found = requests_.find(request.request_id);
  if (found == requests_.end()) return;  // cancelled while encoding
  if (!prompt.ok()) return fail(request.request_id, prompt.error());
  const Result<std::uint32_t> new_tokens_max = new_tokens(request, prompt->size());
  if (!new_tokens_max.ok()) return fail(request.request_id, new_tokens_max.error());
  const auto prompt_tokens = static_cast<std::uint32_t>(prompt->size());
  pipeline::GenerateParams params;
  params.prompt = std::move(*prompt);
  params.new_tokens_max = *new_tokens_max;
  params.sampling.stop_ids = stop_ids_;
  auto answer = std::make_shared<Answer>(*this, request.request_id, found->second.sink, text_,
                                         prompt_tokens, found->second.submitted);
  found->second.sequence = node_.driver().start(std::move(params), std::move(answer));
}

void Serving::fail(const std::string& request_id, const Error& why) {
  const auto entry = requests_.extract(request_id);
  if (!entry.empty()) entry.mapped().sink->on_error(why);
}

void Serving::cancel(const std::string& request_id) {
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_), request_id] {
    if (alive.expired()) return;
    const auto entry = requests_.extract(request_id);
    if (!entry.empty() && entry.mapped().sequence.has_value())
      node_.driver().cancel(*entry.mapped().sequence);
  });
}

void Serving::tick() {
  std::vector<std::string> late;
  for (const auto& [id, entry] : requests_)
    if (!entry.sequence.has_value() &&
        env_.clock.now() - entry.submitted >= limits::kEncodeDeadline)
      late.push_back(id);
  for (const std::string& id : late)
    fail(id, Error(Code::kDeadlineExceeded, "the prompt was not tokenised in time", true));
}

void Serving::shut_down(const Error& why) {
  shut_down_ = why;
  while (!requests_.empty()) {
    const auto entry = requests_.extract(requests_.begin());
    if (entry.mapped().sequence.has_value()) node_.driver().cancel(*entry.mapped().sequence);
    entry.mapped().sink->on_error(why);
  }
}

void Serving::set_reading(const std::string&, bool) {}

void Serving::tokenize(TokenizeRequest, std::function<void(Result<std::vector<TokenText>>)> done) {
  done(Error(Code::kUnsupported, "not built"));
}

void Serving::detokenize(std::vector<TokenId>, std::function<void(Result<std::string>)> done) {
  done(Error(Code::kUnsupported, "not built"));
}

void Serving::metrics(std::function<void(std::string)> done) {
  done("");
}

MeshStatus Serving::status() const {
  std::lock_guard lock(status_mutex_);
  return *status_;
}

void Serving::publish_status() {
  auto snapshot = std::make_shared<MeshStatus>(node_.status());
  snapshot->requests_running = static_cast<std::uint32_t>(node_.driver().running());
  snapshot->requests_waiting = static_cast<std::uint32_t>(
      requests_.size() - std::min(requests_.size(), node_.driver().running()));
  std::lock_guard lock(status_mutex_);
  status_ = std::move(snapshot);
}

}  // namespace mesh::node
