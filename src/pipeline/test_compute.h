#pragma once
// For tests of pipeline and node: an engine whose steps end when the test says so, a transport that
// records what is sent, and a sink that records what arrives.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/compute.h"
#include "env/env.h"
#include "env/manual_loop.h"
#include "pipeline/driver.h"
#include "wire/messages.h"

namespace mesh::pipeline {

constexpr engine::ComputeShape kTestShape{6, 256, 8, 100};

// Tokens are 10 + position of the sampled row, those that are given stay; residual rows are zero.
class TestCompute final : public engine::Compute {
 public:
  engine::ComputeShape shape() const override { return kTestShape; }
  void load(LayerRange layers, std::function<void(Result<engine::LoadReport>)> done) override {
    loads.push_back(layers);
    const bool fails = fail_loads;
    pending.push_back([this, layers, fails, done = std::move(done)] {
      if (fails) return done(Error(Code::kResourceExhausted, "no memory"));
      held = layers;
      engine::LoadReport report;
      report.layers = layers;
      report.bytes_loaded = 100 * layers.size();
      report.pages = layers.empty() ? 0 : pages;
      done(report);
    });
  }
  void submit(engine::StepJob job, std::function<void(Result<engine::StepOutput>)> done) override {
    engine::StepOutput out;
    out.non_finite.assign(job.kv_length.size(), non_finite ? 1 : 0);
    if (held.end < kTestShape.layers)
      out.residual_out = Buffer(job.rows() * kTestShape.row_bytes);
    else
      for (std::size_t i = 0; i < job.sample_rows.size(); ++i) {
        const auto row = static_cast<std::size_t>(job.sample_rows[i]);
        out.sampled.push_back({10 + job.positions[row], 0.0f, {}});
        if (i < job.sampling.size()) choose(job.sampling[i], out.sampled.back());
      }
    rows += job.rows();
    out.compute = step_time;
    last_job = std::move(job);
    auto shared = std::make_shared<Result<engine::StepOutput>>(std::move(out));
    if (step_error) *shared = *std::exchange(step_error, std::nullopt);
    pending.push_back([shared, done = std::move(done)] { done(std::move(*shared)); });
  }
  // Ends the oldest step or load; false when there is none.
  bool finish_one() {
    if (pending.empty()) return false;
    const std::function<void()> task = std::move(pending.front());
    pending.pop_front();
    task();
    return true;
  }

  static void choose(const engine::SampleSpec& spec, SampledToken& out) {
    if (spec.given) out.token = *spec.given;
    if (spec.params->logprobs < 0 && !spec.given) return;
    out.logprob = -0.5f;
    for (std::int32_t n = 0; n < spec.params->logprobs; ++n) out.top.push_back({n, -1.0f});
  }

  LayerRange held;
  std::uint32_t pages = 16;
  engine::StepJob last_job;
  std::optional<Error> step_error;  // of the next step
  Duration step_time = milliseconds(10);
  bool fail_loads = false, non_finite = false;
  std::size_t rows = 0;
  std::vector<LayerRange> loads;
  std::deque<std::function<void()>> pending;
};

class RecordingTransport final : public env::Transport {
 public:
  explicit RecordingTransport(PeerId self) : self_(self) {}
  PeerId self() const override { return self_; }
  void set_handler(env::TransportHandler*) override {}
  void dial(const env::Address&) override {}
  Result<void> send(PeerId to, env::Frame frame) override {
    if (to == unreachable) return Error(Code::kNotFound, "no link");
    sent.emplace_back(to, std::move(frame));
    return {};
  }
  void close(PeerId, const Error&) override {}

  // Frames of one type sent to a peer so far, oldest first; they are taken out.
  std::vector<env::Frame> take(PeerId to, wire::FrameType type) {
    std::vector<env::Frame> out;
    for (auto at = sent.begin(); at != sent.end();) {
      if (at->first != to || at->second.type != static_cast<std::uint8_t>(type)) {
        ++at;
        continue;
      }
      out.push_back(std::move(at->second));
      at = sent.erase(at);
    }
    return out;
  }

  PeerId unreachable;
  std::vector<std::pair<PeerId, env::Frame>> sent;

 private:
  PeerId self_;
};

class CountingRandom final : public env::Random {
 public:
  void fill(std::span<std::byte> out) override {
    for (std::byte& byte : out) byte = static_cast<std::byte>(++next_ * 37 & 255);
  }

 private:
  unsigned next_ = 0;
};

class RecordingSink : public TokenSink {
 public:
  void admitted() override { ++admissions; }
  void token(const SampledToken& token) override {
    tokens.push_back(token.token);
    if (on_token) on_token();
  }
  void finished(wire::Finish reason) override {
    ++ends;
    finish = reason;
  }
  void failed(const Error& why) override {
    ++ends;
    error = why;
    if (on_failed) on_failed();
  }

  int admissions = 0, ends = 0;
  std::vector<TokenId> tokens;
  std::optional<wire::Finish> finish;
  std::optional<Error> error;
  std::function<void()> on_token, on_failed;
};

inline PeerId test_peer(char letter) {
  return PeerId::from_bytes(std::string(32, letter)).value();
}

}  // namespace mesh::pipeline
