#include "node/serving.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace mesh::node {
namespace {

Error no_text() {
  return Error(Code::kUnavailable, "the model is still being loaded", true);
}

// On the blocking pool.
Result<std::vector<PreparedPrompt>> prepare(const GenerateRequest& request, const TextService& text,
                                            std::uint32_t vocabulary, std::int64_t unix_seconds) {
  std::vector<PreparedPrompt> out;
  for (const PromptInput& input : request.prompts) {
    PreparedPrompt prompt;
    MESH_ASSIGN_OR_RETURN(prompt.ids, text.encode(input, vocabulary, unix_seconds));
    if (request.echo) prompt.echo = text.shown_prompt(input, prompt.ids);
    out.push_back(std::move(prompt));
  }
  return out;
}

}  // namespace

Serving::Serving(env::Env& env, MeshNode& node, env::BlockingPool& blocking)
    : env_(env),
      node_(node),
      blocking_(blocking),
      metrics_(env.metrics),
      status_(std::make_shared<MeshStatus>()) {}

// Requests refer to this object.
Serving::~Serving() {
  for (const auto& [id, generation] : requests_) generation->abandon();
}

void Serving::set_model(std::shared_ptr<const TextService> text, ModelRules rules) {
  text_ = std::move(text);
  rules_ = std::move(rules);
}

// --- requests

void Serving::generate(GenerateRequest request, std::shared_ptr<GenerateSink> sink) {
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_), request = std::move(request),
                  sink = std::move(sink)]() mutable {
    if (alive.expired()) return;
    Result<RequestPlan> plan = admit(request);
    if (!plan.ok()) {
      metrics_.finished("error").add();
      return sink->on_error(plan.error());
    }
    auto generation = std::make_shared<Generation>(
        world(), request.request_id, std::move(*plan), text_, std::move(sink),
        [this, id = request.request_id] { requests_.erase(id); });
    requests_[request.request_id] = generation;
    encode(std::move(request), *generation);
  });
}

Generation::World Serving::world() {
  pipeline::Driver& driver = node_.driver();
  Generation::Sequences sequences;
  sequences.start = [&driver](pipeline::GenerateParams params,
                              std::shared_ptr<pipeline::TokenSink> sink) {
    return driver.start(std::move(params), std::move(sink));
  };
  sequences.cancel = [&driver](SequenceId sequence) { driver.cancel(sequence); };
  sequences.set_reading = [&driver](SequenceId sequence, bool reading) {
    driver.set_reading(sequence, reading);
  };
  return {env_, metrics_, std::move(sequences)};
}

Result<RequestPlan> Serving::admit(const GenerateRequest& request) {
  if (closed_.has_value()) return *closed_;
  if (requests_.contains(request.request_id))
    return Error(Code::kInvalidArgument,
                 fmt::format("request {} runs already", request.request_id));
  if (const Result<pipeline::RouteChoice> route = node_.choose_route(); !route.ok())
    return route.error();
  if (!text_) return no_text();
  const std::uint64_t seed = request.sampling.seed.has_value() ? 0 : env_.random.next_u64();
  MESH_ASSIGN_OR_RETURN(RequestPlan plan, plan_request(request, rules_, seed));
  // All of its sequences find room or the request is not begun.
  std::size_t waiting = node_.driver().waiting();
  for (const auto& [id, generation] : requests_)
    if (generation->encoding()) waiting += generation->plan().all_sequences();
  if (waiting + plan.all_sequences() > node_.max_queue())
    return Error(Code::kResourceExhausted,
                 fmt::format("{} answers are waiting on this node already, at most {} may", waiting,
                             node_.max_queue()),
                 true);
  return plan;
}

void Serving::encode(GenerateRequest request, const Generation& generation) {
  const std::string id = request.request_id;
  const std::int64_t now_s = env_.clock.unix_milliseconds() / 1000;
  const Result<void> queued = blocking_.submit(
      [this, alive = std::weak_ptr<bool>(alive_), now_s, vocabulary = rules_.vocabulary,
       request = std::move(request), text = generation.text()] {
        auto prompts = std::make_shared<Result<std::vector<PreparedPrompt>>>(
            prepare(request, *text, vocabulary, now_s));
        env_.loop.post(
            [this, alive, id = request.request_id, max_tokens = request.max_tokens, prompts] {
              if (!alive.expired()) start(id, max_tokens, std::move(*prompts));
            });
      });
  if (!queued.ok()) fail(id, queued.error());
}

// How long the answer may get: what the client asks for, within the context and within what the
// nodes of the route can hold at all.
Result<std::uint32_t> Serving::new_tokens(std::optional<std::uint32_t> max_tokens,
                                          std::size_t prompt) const {
  const std::uint32_t context = node_.context();
  if (prompt == 0) return Error(Code::kInvalidArgument, "the prompt has no tokens");
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
  // max_tokens 0 scores the prompt; the one token that ends the sequence is not shown.
  return std::min(std::max(max_tokens.value_or(context), 1u),
                  positions - static_cast<std::uint32_t>(prompt));
}

void Serving::start(const std::string& id, std::optional<std::uint32_t> max_tokens,
                    Result<std::vector<PreparedPrompt>> prompts) {
  const auto found = requests_.find(id);
  if (found == requests_.end() || !found->second->encoding()) return;  // cancelled meanwhile
  if (!prompts.ok()) return fail(id, prompts.error());
  for (PreparedPrompt& prompt : *prompts) {
    const Result<std::uint32_t> length = new_tokens(max_tokens, prompt.ids.size());
    if (!length.ok()) return fail(id, length.error());
    prompt.new_tokens_max = *length;
  }
  found->second->start(std::move(*prompts));
}

void Serving::fail(const std::string& request_id, const Error& why) {
  const auto found = requests_.find(request_id);
  if (found == requests_.end()) return;
  const std::shared_ptr<Generation> generation = found->second;
  generation->fail(why);
}

void Serving::cancel(const std::string& request_id) {
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_), request_id] {
    if (alive.expired()) return;
    const auto found = requests_.find(request_id);
    if (found == requests_.end()) return;
    const std::shared_ptr<Generation> generation = found->second;
    generation->cancel();
  });
}

void Serving::set_reading(const std::string& request_id, bool reading) {
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_), request_id, reading] {
    if (alive.expired()) return;
    const auto found = requests_.find(request_id);
    if (found != requests_.end()) found->second->set_reading(reading);
  });
}

void Serving::tick() {
  std::vector<std::string> late;
  for (const auto& [id, generation] : requests_)
    if (generation->encoding() &&
        env_.clock.now() - generation->submitted() >= limits::kEncodeDeadline)
      late.push_back(id);
  for (const std::string& id : late)
    fail(id, Error(Code::kDeadlineExceeded, "the prompt was not tokenised in time", true));
}

void Serving::stop_admitting(const Error& why) {
  closed_ = why;
}

void Serving::shut_down(const Error& why) {
  stop_admitting(why);
  while (!requests_.empty()) fail(requests_.begin()->first, why);
}

// --- questions

void Serving::with_text(TextJob job) {
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_), job = std::move(job)] {
    if (alive.expired()) return;
    if (!text_) return job(no_text());
    const Result<void> queued = blocking_.submit([job, text = text_] { job(text); });
    if (!queued.ok()) job(queued.error());
  });
}

void Serving::tokenize(TokenizeRequest request,
                       std::function<void(Result<std::vector<TokenText>>)> done) {
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_), request = std::move(request),
                  done = std::move(done)]() mutable {
    if (alive.expired()) return;
    const std::int64_t now_s = env_.clock.unix_milliseconds() / 1000;
    with_text([request = std::move(request), done = std::move(done), now_s,
               vocabulary = rules_.vocabulary](Result<std::shared_ptr<const TextService>> text) {
      if (!text.ok()) return done(text.error());
      const Result<std::vector<TokenId>> ids =
          (*text)->encode(request.prompt, vocabulary, now_s, request.add_special);
      if (!ids.ok()) return done(ids.error());
      done((*text)->token_texts(*ids));
    });
  });
}

void Serving::detokenize(std::vector<TokenId> tokens,
                         std::function<void(Result<std::string>)> done) {
  with_text([tokens = std::move(tokens),
             done = std::move(done)](Result<std::shared_ptr<const TextService>> text) {
    done(text.ok() ? (*text)->decode(tokens) : Result<std::string>(text.error()));
  });
}

void Serving::metrics(std::function<void(std::string)> done) {
  env_.loop.post([this, alive = std::weak_ptr<bool>(alive_), done = std::move(done)] {
    if (!alive.expired()) done(env_.metrics.render());
  });
}

// --- status

MeshStatus Serving::status() const {
  std::lock_guard lock(status_mutex_);
  return *status_;
}

void Serving::publish_status() {
  auto snapshot = std::make_shared<MeshStatus>(node_.status());
  for (const auto& [id, generation] : requests_)
    ++(generation->admitted() ? snapshot->requests_running : snapshot->requests_waiting);
  snapshot->retry_after_s = node_.driver().retry_after_s();
  std::lock_guard lock(status_mutex_);
  status_ = std::move(snapshot);
}

}  // namespace mesh::node
