// The driver of this engine: EngineCompute on a real control loop over the cpu backend, as a node
// that serves all layers alone runs it, without scheduler and network.

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <future>

#include "backends/backends.h"
#include "base/limits.h"
#include "base/version.h"
#include "bench/vs_llama_cpp/driver.h"
#include "engine/engine_compute.h"
#include "engine/step_job.h"
#include "env/real_loop.h"
#include "kvcache/page_tables.h"

namespace mesh::bench {
namespace {

constexpr std::uint32_t kPositions = 16384;  // of all sequences; pages not used cost no memory
constexpr std::uint32_t kPages = kPositions / kvcache::kPagePositions + 1;

formats::HubEnvironment hub_environment() {
  const auto get = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  return {get("HF_HUB_CACHE"), get("HF_HOME"), get("XDG_CACHE_HOME"), get("HOME")};
}

// Consecutive rows of one sequence; the token behind the last is chosen greedily.
struct Rows {
  std::uint64_t sequence = 0;
  std::int32_t first_position = 0;
  std::vector<TokenId> tokens;
};

class OurSubject final : public Subject {
 public:
  ~OurSubject() override {
    on_loop([this] { compute_.reset(); });
    loop_.stop();
  }

  Result<void> load(const DriverOptions& options) {
    loop_.start();
    MESH_ASSIGN_OR_RETURN(formats::ModelFiles files,
                          formats::open_model(options.model, hub_environment()));
    MESH_ASSIGN_OR_RETURN(auto backend,
                          backends::make_backend("cpu", {options.threads, options.isa}));
    engine::EngineOptions engine_options;
    engine_options.stage.pages = kPages;
    Result<void> made;
    std::promise<Result<engine::LoadReport>> loaded;
    on_loop([&] {
      auto engine = engine::EngineCompute::make(std::move(backend), std::move(files), loop_,
                                                std::move(engine_options));
      if (!engine.ok()) {
        made = engine.error();
        return;
      }
      compute_ = std::move(*engine);
      compute_->load(LayerRange{0, compute_->shape().layers},
                     [&](auto report) { loaded.set_value(std::move(report)); });
    });
    MESH_RETURN_IF_ERROR(made);
    const Result<engine::LoadReport> report = loaded.get_future().get();
    if (!report.ok()) return report.error();
    bytes_loaded_ = report->bytes_loaded;
    return {};
  }

  std::vector<std::pair<std::string, std::string>> facts() const override {
    const ops::BackendInfo info = compute_->backend_info();
    return {{"engine", json_text("toolkit-mesh")},
            {"version", json_text(std::string(engine_version()))},
            {"kernels", json_text(info.isa + " " + info.numeric_class)},
            {"weight_bytes", std::to_string(bytes_loaded_)}};
  }

  int vocabulary() const override { return static_cast<int>(compute_->shape().vocabulary); }

  Answer prefill(int tokens) override {
    tables_ = kvcache::PageTables(kPages, false);
    filled_ = {};
    const Result<void> room = reserve(1, tokens);
    if (!room.ok()) return {room.error().message, {}, {}};
    return run_steps({prompt(0, tokens)}, true);
  }

  Answer decode(int sequences, int steps, int prompt_tokens) override {
    if (filled_.sequences != sequences || filled_.prompt != prompt_tokens ||
        filled_.positions < prompt_tokens + steps) {
      filled_ = {};
      const Answer prompts = fill(sequences, prompt_tokens, prompt_tokens + steps);
      if (!prompts.error.empty()) return prompts;
      filled_ = {sequences, prompt_tokens, prompt_tokens + steps, prompts.ids};
    }
    std::vector<Rows> rows;
    for (int s = 0; s < sequences; ++s)
      rows.push_back({static_cast<std::uint64_t>(s),
                      prompt_tokens,
                      {filled_.first[static_cast<std::size_t>(s)]}});
    return decode_from(std::move(rows), steps);
  }

  Answer greedy_ids(int count, int prompt_tokens) override {
    filled_ = {};
    const Answer prompts = fill(1, prompt_tokens, prompt_tokens + count);
    if (!prompts.error.empty() || count == 1) return prompts;
    Answer rest = decode_from({{0, prompt_tokens, prompts.ids}}, count - 1);
    ids_of_steps_.insert(ids_of_steps_.begin(), prompts.ids.front());
    rest.ids = ids_of_steps_;
    return rest;
  }

  bool set(const std::string& name, const std::string&) override {
    return name == "flash" || name == "ubatch";  // one attention, one way to cut prompts
  }

 private:
  struct Filled {
    int sequences = 0, prompt = 0, positions = 0;
    std::vector<TokenId> first;  // token behind each prompt
  };

  void on_loop(const std::function<void()>& task) {
    std::promise<void> done;
    loop_.post([&] {
      task();
      done.set_value();
    });
    done.get_future().get();
  }

  Rows prompt(int sequence, int tokens) const {
    Rows rows{static_cast<std::uint64_t>(sequence), 0, {}};
    for (int i = 0; i < tokens; ++i) rows.tokens.push_back(prompt_token(sequence, i, vocabulary()));
    return rows;
  }

  Result<void> reserve(int sequences, int positions) {
    for (int s = 0; s < sequences; ++s)
      MESH_RETURN_IF_ERROR(tables_.reserve(SequenceId{static_cast<std::uint64_t>(s)},
                                           static_cast<std::uint32_t>(positions)));
    return {};
  }

  // Untimed prompts of all sequences, one after the other; `ids` are the tokens behind them.
  Answer fill(int sequences, int prompt_tokens, int positions) {
    tables_ = kvcache::PageTables(kPages, false);
    const Result<void> room = reserve(sequences, positions);
    if (!room.ok()) return {room.error().message, {}, {}};
    Answer all;
    for (int s = 0; s < sequences; ++s) {
      const Answer one = run_steps({prompt(s, prompt_tokens)}, true);
      if (!one.error.empty()) return one;
      all.ids.push_back(one.ids.back());
    }
    return all;
  }

  Answer decode_from(std::vector<Rows> rows, int steps) {
    steps_left_ = steps;
    return run_steps(std::move(rows), false);
  }

  // Runs `rows`; one prompt in as few steps as limits::kBatchRows allows, timed as one, else
  // steps_left_ steps in which each sequence goes on from the token before.
  Answer run_steps(std::vector<Rows> rows, bool prompts) {
    rows_ = std::move(rows);
    prompts_ = prompts;
    offset_ = 0;
    answer_ = {};
    ids_of_steps_.clear();
    std::promise<void> done;
    finished_ = [&] { done.set_value(); };
    loop_.post([this] {
      begin_ = seconds_now();
      submit();
    });
    done.get_future().get();
    return std::move(answer_);
  }

  // --- on the loop
  void fail(std::string why) {
    answer_ = {std::move(why), {}, {}};
    finished_();
  }

  void submit() {
    engine::BatchPlan plan;
    std::vector<engine::SampleRows> sample;
    taken_ = 0;
    for (const Rows& rows : rows_) {
      const std::size_t left = rows.tokens.size() - (prompts_ ? offset_ : 0);
      taken_ = prompts_ ? std::min(left, limits::kBatchRows) : left;
      const std::size_t from = prompts_ ? offset_ : 0;
      plan.parts.push_back({SequenceId{rows.sequence},
                            rows.first_position + static_cast<std::int32_t>(from),
                            static_cast<std::int32_t>(taken_),
                            static_cast<std::int32_t>(plan.tokens.size()), false});
      const auto begin = rows.tokens.begin() + static_cast<std::ptrdiff_t>(from);
      plan.tokens.insert(plan.tokens.end(), begin, begin + static_cast<std::ptrdiff_t>(taken_));
      sample.emplace_back();
      if (taken_ == left)
        sample.back().rows.emplace_back(static_cast<std::int32_t>(taken_) - 1,
                                        engine::SampleSpec{});
    }
    Result<engine::StepJob> job = engine::make_step_job(std::move(plan), tables_, sample);
    if (!job.ok()) return fail(job.error().message);
    compute_->submit(std::move(*job), [this](Result<engine::StepOutput> out) {
      if (!out.ok()) return fail(out.error().message);
      for (const std::uint8_t bad : out->non_finite)
        if (bad != 0) return fail("values are not finite");
      advance(*out);
    });
  }

  void advance(const engine::StepOutput& out) {
    if (prompts_) {
      offset_ += taken_;
      if (offset_ < rows_.front().tokens.size()) return submit();
      answer_.ids = {out.sampled.front().token};
    } else {
      answer_.ids.clear();
      for (std::size_t s = 0; s < rows_.size(); ++s) {
        answer_.ids.push_back(out.sampled[s].token);
        rows_[s].tokens = {out.sampled[s].token};
        ++rows_[s].first_position;
      }
      ids_of_steps_.push_back(answer_.ids.front());
    }
    const double now = seconds_now();
    answer_.seconds.push_back(now - begin_);
    begin_ = now;
    if (prompts_ || --steps_left_ == 0) return finished_();
    submit();
  }

  env::RealLoop loop_;
  std::unique_ptr<engine::EngineCompute> compute_;  // lives on the loop
  std::uint64_t bytes_loaded_ = 0;
  kvcache::PageTables tables_{kPages, false};
  Filled filled_;

  // Of the command that runs.
  std::vector<Rows> rows_;
  bool prompts_ = false;
  std::size_t offset_ = 0, taken_ = 0;  // rows of the prompt behind and in the step that runs
  int steps_left_ = 0;
  double begin_ = 0;
  Answer answer_;
  std::vector<std::int32_t> ids_of_steps_;
  std::function<void()> finished_;
};

int run(const DriverOptions& options) {
  const double begin = seconds_now();
  if (!bind_to_cores(options.cores)) return 1;
  OurSubject subject;
  if (const Result<void> loaded = subject.load(options); !loaded.ok()) {
    fmt::print(stderr, "cannot load {}: {}\n", options.model, loaded.error().message);
    return 1;
  }
  return run_driver(subject, options, begin);
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(mesh::bench::read_driver_options(argc, argv));
}
