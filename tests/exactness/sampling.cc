#include "sampling.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <memory>

#include "base/hash.h"
#include "engine/local_ring.h"
#include "kvcache/page_tables.h"

namespace mesh::exactness {
namespace {

constexpr std::size_t kPrompts = 4;
constexpr std::size_t kChoices = 2;
constexpr std::size_t kLongestPrompt = 130;

std::vector<TokenId> prompt_of(const Subject& subject, std::size_t prompt) {
  std::vector<TokenId> tokens = subject.contents[prompt * 5];
  tokens.resize(std::min(tokens.size(), kLongestPrompt));
  return tokens;
}

SamplingParams params_of(std::size_t prompt, std::size_t choice) {
  SamplingParams params;
  params.temperature = 1;
  params.seed = 0x5EED0000ull + prompt;
  params.choice = static_cast<std::uint32_t>(choice);
  if (prompt == 0) params.logprobs = 5;
  if (prompt == 1) {
    params.temperature = 0.7f;
    params.top_k = 50;
    params.top_p = 0.9f;
    params.min_p = 0.02f;
    params.logprobs = 0;
  }
  if (prompt == 2) {
    params.logit_bias = {{3, 2.5f}, {40, -100.0f}};
    params.stop_ids = {3, 7};
    params.min_tokens = 60;
    params.top_p = 0.95f;
  }
  if (prompt >= 2) {
    params.repetition_penalty = 1.3f;
    params.presence_penalty = 0.4f;
    params.frequency_penalty = 0.2f;
  }
  return params;
}

struct Sequence {
  std::vector<TokenId> tokens;  // prompt, then what was drawn
  std::size_t prompt = 0;
  std::size_t done = 0;
  std::size_t first_step = 0;
  std::shared_ptr<const SamplingParams> params;
  std::shared_ptr<engine::TokenHistory> history = std::make_shared<engine::TokenHistory>();

  std::size_t drawn() const { return tokens.size() - prompt; }
  void append(TokenId token) {
    tokens.push_back(token);
    ++history->output[token];
  }
  engine::SampleSpec spec() const {
    engine::SampleSpec spec;
    spec.position = static_cast<std::uint32_t>(tokens.size());
    spec.drawn = static_cast<std::uint32_t>(drawn());
    spec.params = params;
    spec.history = history;
    return spec;
  }
};

std::vector<Sequence> make_sequences(const Subject& subject, const SamplingSetup& setup,
                                     const Generations& known) {
  std::vector<Sequence> sequences(kPrompts * kChoices);
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    Sequence& sequence = sequences[s];
    sequence.tokens = prompt_of(subject, s / kChoices);
    sequence.prompt = sequence.tokens.size();
    sequence.params = std::make_shared<const SamplingParams>(params_of(s / kChoices, s % kChoices));
    std::vector<TokenId>& distinct = sequence.history->prompt;
    distinct = sequence.tokens;
    std::sort(distinct.begin(), distinct.end());
    distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
    if (setup.start == Start::kStaggered) sequence.first_step = 3 * s;
    if (setup.start != Start::kReplayed) continue;
    for (std::size_t i = 0; i < std::min(5 * s + 1, known[s].size()); ++i)
      sequence.append(known[s][i].token);
  }
  return sequences;
}

bool same_bits(const TokenScore& a, const TokenScore& b) {
  return a.token == b.token &&
         std::bit_cast<std::uint32_t>(a.logprob) == std::bit_cast<std::uint32_t>(b.logprob);
}

bool same_bits(const SampledToken& a, const SampledToken& b) {
  return same_bits(TokenScore{a.token, a.logprob}, TokenScore{b.token, b.logprob}) &&
         std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(),
                    [](const TokenScore& x, const TokenScore& y) { return same_bits(x, y); });
}

Result<void> accept(std::size_t s, Sequence& sequence, const SampledToken& token,
                    std::vector<SampledToken>& known) {
  const std::size_t at = sequence.drawn();
  if (at == known.size()) known.push_back(token);
  if (!same_bits(known[at], token))
    return Error(Code::kInternal,
                 fmt::format("sequence {} token {}: {} ({}), expected {} ({})", s, at, token.token,
                             token.logprob, known[at].token, known[at].logprob));
  sequence.append(token.token);
  return {};
}

}  // namespace

Result<void> run_sampling(ops::Backend& backend, const Subject& subject, const SamplingSetup& setup,
                          Generations& known) {
  known.resize(kPrompts * kChoices);
  std::vector<Sequence> sequences = make_sequences(subject, setup, known);
  const auto positions = static_cast<std::uint32_t>(kLongestPrompt + setup.tokens);
  engine::RingOptions options;
  options.cuts = setup.cuts;
  options.pages = 1 + static_cast<std::uint32_t>(sequences.size()) * kvcache::pages_for(positions);
  options.kv_starts_as_nan = true;
  MESH_ASSIGN_OR_RETURN(
      std::unique_ptr<engine::LocalRing> ring,
      engine::LocalRing::make(backend, *subject.files.tensors, subject.spec, options));
  for (std::size_t s = 0; s < sequences.size(); ++s)
    MESH_RETURN_IF_ERROR(ring->reserve(SequenceId{s}, positions));

  for (std::size_t step = 0;; ++step) {
    std::vector<engine::RingRows> rows;
    std::vector<std::size_t> of;
    bool waiting = false;
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      const Sequence& sequence = sequences[s];
      if (sequence.drawn() >= setup.tokens) continue;
      waiting = true;
      if (step < sequence.first_step) continue;
      const std::size_t left = sequence.tokens.size() - sequence.done;
      const std::size_t count = setup.chunk == 0 ? left : std::min(left, setup.chunk);
      rows.push_back({SequenceId{s}, static_cast<std::int32_t>(sequence.done),
                      std::span(sequence.tokens).subspan(sequence.done, count), count == left,
                      sequence.spec()});
      of.push_back(s);
    }
    if (!waiting) return {};
    MESH_ASSIGN_OR_RETURN(const engine::StepOutput out, ring->step(rows));
    std::size_t next = 0;
    for (std::size_t i = 0; i < of.size(); ++i) {
      if (out.non_finite[i] != 0)
        return Error(Code::kInternal, fmt::format("sequence {}: values are not finite", of[i]));
      Sequence& sequence = sequences[of[i]];
      sequence.done += rows[i].tokens.size();
      if (rows[i].sample)
        MESH_RETURN_IF_ERROR(accept(of[i], sequence, out.sampled[next++], known[of[i]]));
    }
  }
}

std::uint64_t digest(const Generations& generations) {
  Hasher hasher;
  for (const auto& sequence : generations)
    for (const SampledToken& token : sequence) {
      hasher.update_value(token.token);
      hasher.update_value(std::bit_cast<std::uint32_t>(token.logprob));
      for (const TokenScore& score : token.top) {
        hasher.update_value(score.token);
        hasher.update_value(std::bit_cast<std::uint32_t>(score.logprob));
      }
    }
  return hasher.digest();
}

}  // namespace mesh::exactness
