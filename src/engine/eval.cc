#include "engine/eval.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "backends/backends.h"
#include "base/limits.h"
#include "engine/local_ring.h"
#include "engine/step_job.h"
#include "formats/byte_source.h"
#include "formats/quantized_source.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "tensor/dtype.h"

namespace mesh::engine {
namespace {

Error bad(std::string message) {
  return Error(Code::kInvalidArgument, std::move(message));
}

// Widens residual bytes to f32, which is exact.
void append_as_f32(std::span<const std::byte> bytes, tensor::DType dtype, std::vector<float>& out) {
  const std::size_t at = out.size();
  const std::size_t count = bytes.size() / tensor::dtype_bytes(dtype);
  out.resize(at + count);
  if (dtype == tensor::DType::kF32) {
    std::memcpy(out.data() + at, bytes.data(), count * sizeof(float));
    return;
  }
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, bytes.data() + i * sizeof(half), sizeof(half));
    out[at + i] = tensor::bf16_to_f32(half);
  }
}

// The steps of one evaluation: prompts in chunks, then one token per sequence and step.
class Evaluation {
 public:
  Evaluation(LocalRing& ring, std::span<const std::vector<TokenId>> prompts,
             const EvalOptions& options)
      : ring_(ring),
        options_(options),
        sampling_(std::make_shared<const SamplingParams>(options.sampling)),
        states_(prompts.size()) {
    result_.sequences.resize(prompts.size());
    for (std::size_t s = 0; s < prompts.size(); ++s) {
      states_[s].tokens = prompts[s];
      states_[s].prompt = prompts[s].size();
      states_[s].history->prompt = distinct(prompts[s]);
      result_.sequences[s].rows = prompts[s].size();
      if (options.hidden) result_.sequences[s].hidden.resize(ring.spec().layers + 1);
    }
    if (options.hidden)
      probe_.residual = [this](std::uint32_t layers_done, std::span<const std::byte> rows) {
        keep_residual(layers_done, rows);
      };
    if (options.logits)
      probe_.logits = [this](std::size_t first, std::span<const float> logits) {
        keep_logits(first, logits);
      };
  }

  Result<EvalResult> run() {
    while (choose_rows()) {
      std::vector<RingRows> rows;
      for (const Part& part : parts_) {
        const State& state = states_[part.sequence];
        rows.push_back({SequenceId{part.sequence}, static_cast<std::int32_t>(state.done),
                        std::span(state.tokens).subspan(state.done, part.rows),
                        state.done + part.rows == state.tokens.size(), spec(state)});
      }
      MESH_ASSIGN_OR_RETURN(StepOutput out, ring_.step(rows, &probe_));
      MESH_RETURN_IF_ERROR(advance(rows, out));
    }
    return std::move(result_);
  }

 private:
  struct State {
    std::vector<TokenId> tokens;  // prompt, then generated
    std::size_t prompt = 0;
    std::size_t done = 0;  // positions in the cache
    std::shared_ptr<TokenHistory> history = std::make_shared<TokenHistory>();
  };
  struct Part {
    std::size_t sequence = 0;
    std::size_t rows = 0;
  };

  static std::vector<TokenId> distinct(std::vector<TokenId> ids) {
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
  }

  SampleSpec spec(const State& state) const {
    SampleSpec spec;
    spec.position = static_cast<std::uint32_t>(state.tokens.size());
    spec.drawn = static_cast<std::uint32_t>(state.tokens.size() - state.prompt);
    spec.params = sampling_;
    spec.history = state.history;
    return spec;
  }

  // Positions a sequence runs in all: the token generated last is never fed back.
  std::size_t wanted(const State& state) const {
    return state.prompt + (options_.generate > 0 ? options_.generate - 1 : 0);
  }

  bool choose_rows() {
    parts_.clear();
    std::size_t budget = limits::kBatchRows;
    for (std::size_t s = 0; s < states_.size() && budget > 0; ++s) {
      const State& state = states_[s];
      if (state.done >= wanted(state)) continue;
      std::size_t rows = std::min(budget, state.tokens.size() - state.done);
      if (options_.chunk > 0) rows = std::min<std::size_t>(rows, options_.chunk);
      parts_.push_back({s, rows});
      budget -= rows;
    }
    return !parts_.empty();
  }

  Result<void> advance(std::span<const RingRows> rows, const StepOutput& out) {
    std::size_t sampled = 0;
    for (std::size_t i = 0; i < parts_.size(); ++i) {
      if (out.non_finite[i] != 0)
        return Error(Code::kInternal,
                     fmt::format("sequence {}: values at position {} or after it are not finite",
                                 parts_[i].sequence, rows[i].first_position));
      State& state = states_[parts_[i].sequence];
      state.done += parts_[i].rows;
      if (!rows[i].sample) continue;
      const TokenId token = out.sampled[sampled++].token;
      std::vector<TokenId>& generated = result_.sequences[parts_[i].sequence].generated;
      if (generated.size() >= options_.generate) continue;
      generated.push_back(token);
      state.tokens.push_back(token);
      ++state.history->output[token];
    }
    return {};
  }

  // Rows of prompts are kept, those of generated tokens are not.
  std::size_t kept_rows(const Part& part) const {
    const State& state = states_[part.sequence];
    return state.done < state.prompt ? part.rows : 0;
  }

  void keep_residual(std::uint32_t layers_done, std::span<const std::byte> rows) {
    const model::ModelSpec& spec = ring_.spec();
    const std::size_t row_bytes = spec.hidden * tensor::dtype_bytes(spec.residual);
    std::size_t offset = 0;
    for (const Part& part : parts_) {
      append_as_f32(rows.subspan(offset * row_bytes, kept_rows(part) * row_bytes), spec.residual,
                    result_.sequences[part.sequence].hidden[layers_done]);
      offset += part.rows;
    }
  }

  // Keeps what rows [first, first + n) of the step share with the kept rows of each part.
  void keep_logits(std::size_t first, std::span<const float> logits) {
    const std::size_t vocabulary = ring_.spec().vocabulary;
    const std::size_t last = first + logits.size() / vocabulary;
    std::size_t offset = 0;
    for (const Part& part : parts_) {
      const std::size_t begin = std::max(first, offset);
      const std::size_t end = std::min(last, offset + kept_rows(part));
      if (begin < end) {
        const auto kept = logits.subspan((begin - first) * vocabulary, (end - begin) * vocabulary);
        std::vector<float>& out = result_.sequences[part.sequence].logits;
        out.insert(out.end(), kept.begin(), kept.end());
      }
      offset += part.rows;
    }
  }

  LocalRing& ring_;
  const EvalOptions& options_;
  const std::shared_ptr<const SamplingParams> sampling_;
  std::vector<State> states_;
  std::vector<Part> parts_;  // of the step that runs
  StageProbe probe_;
  EvalResult result_;
};

// Checks the ids against the model and returns the KV pages that all sequences need.
Result<std::uint32_t> check_sequences(std::span<const std::vector<TokenId>> sequences,
                                      const model::ModelSpec& spec, const EvalOptions& options) {
  if (sequences.empty()) return bad("no ids to evaluate");
  if (sequences.size() > limits::kSequencesPerStage)
    return bad(
        fmt::format("{} sequences, at most {}", sequences.size(), limits::kSequencesPerStage));
  std::uint64_t pages = 1;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    if (sequences[s].empty()) return bad(fmt::format("sequence {} has no ids", s));
    for (std::size_t i = 0; i < sequences[s].size(); ++i) {
      const TokenId id = sequences[s][i];
      if (id < 0 || static_cast<std::uint32_t>(id) >= spec.vocabulary)
        return bad(fmt::format("sequence {}: id {} at position {} is outside the vocabulary of {}",
                               s, id, i, spec.vocabulary));
    }
    const std::uint64_t positions =
        sequences[s].size() + (options.generate > 0 ? options.generate - 1 : 0);
    if (positions > spec.context)
      return bad(fmt::format("sequence {} needs {} positions, the context of the model has {}", s,
                             positions, spec.context));
    pages += kvcache::pages_for(static_cast<std::uint32_t>(positions));
  }
  if (pages > std::numeric_limits<std::uint32_t>::max())
    return bad(fmt::format("{} KV pages are too many", pages));
  return static_cast<std::uint32_t>(pages);
}

class OutputFile {
 public:
  void add_f32(std::string name, tensor::Shape shape, std::span<const float> values) {
    add({std::move(name), tensor::DType::kF32, std::move(shape)}, std::as_bytes(values));
  }
  void add_i64(std::string name, const std::vector<TokenId>& values) {
    auto wide = std::make_shared<std::vector<std::int64_t>>(values.begin(), values.end());
    add({std::move(name), tensor::DType::kI64, {static_cast<std::int64_t>(wide->size())}},
        std::as_bytes(std::span<const std::int64_t>(*wide)));
    tensors_.back().owner = wide;
  }
  Result<void> write(const std::string& path) const {
    return formats::write_safetensors(path, tensors_);
  }

 private:
  void add(tensor::TensorInfo info, std::span<const std::byte> bytes) {
    tensor::HostTensor entry;
    entry.info = std::move(info);
    entry.bytes = bytes;
    tensors_.push_back(std::move(entry));
  }
  std::vector<tensor::HostTensor> tensors_;
};

Result<void> write_output(const EvalResult& result, const model::ModelSpec& spec,
                          const EvalOptions& options) {
  OutputFile file;
  const auto hidden = static_cast<std::int64_t>(spec.hidden);
  const auto vocabulary = static_cast<std::int64_t>(spec.vocabulary);
  for (std::size_t s = 0; s < result.sequences.size(); ++s) {
    const EvalSequence& sequence = result.sequences[s];
    const std::string prefix = result.sequences.size() > 1 ? fmt::format("{}.", s) : "";
    const auto rows = static_cast<std::int64_t>(sequence.rows);
    if (options.logits) file.add_f32(prefix + "logits", {rows, vocabulary}, sequence.logits);
    for (std::size_t i = 0; i < sequence.hidden.size(); ++i)
      file.add_f32(prefix + (i == 0 ? "hidden.embed" : fmt::format("hidden.{}", i - 1)),
                   {rows, hidden}, sequence.hidden[i]);
    if (options.generate > 0) file.add_i64(prefix + "generated", sequence.generated);
  }
  return file.write(options.out_file);
}

}  // namespace

Result<std::vector<TokenId>> parse_ids(const std::string& json, const std::string& name) {
  const nlohmann::json parsed = nlohmann::json::parse(json, nullptr, false);
  if (parsed.is_discarded() || !parsed.is_array())
    return bad(fmt::format("{}: not a JSON array of token ids", name));
  if (parsed.empty()) return bad(fmt::format("{}: no ids", name));
  if (parsed.size() > limits::kContext)
    return bad(fmt::format("{}: {} ids, at most {}", name, parsed.size(), limits::kContext));
  std::vector<TokenId> ids;
  ids.reserve(parsed.size());
  for (const nlohmann::json& element : parsed) {
    const bool fits =
        element.is_number_unsigned()
            ? element.get<std::uint64_t>() <= std::numeric_limits<TokenId>::max()
            : element.is_number_integer() &&
                  element.get<std::int64_t>() >= std::numeric_limits<TokenId>::min() &&
                  element.get<std::int64_t>() <= std::numeric_limits<TokenId>::max();
    if (!fits)
      return bad(fmt::format(
          "{}: element {} is not a token id: {}", name, ids.size(),
          element.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 40)));
    ids.push_back(element.get<TokenId>());
  }
  return ids;
}

Result<EvalResult> evaluate(ops::Backend& backend, const formats::ModelFiles& model,
                            std::span<const std::vector<TokenId>> sequences,
                            const EvalOptions& options) {
  MESH_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::parse_config(model));
  MESH_ASSIGN_OR_RETURN(const std::uint32_t pages, check_sequences(sequences, spec, options));
  MESH_RETURN_IF_ERROR(check_sampling(options.sampling));
  RingOptions ring_options;
  ring_options.cuts = options.cuts;
  ring_options.pages = pages;
  MESH_ASSIGN_OR_RETURN(std::unique_ptr<LocalRing> ring,
                        LocalRing::make(backend, *model.tensors, spec, ring_options));
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::size_t positions =
        sequences[s].size() + (options.generate > 0 ? options.generate - 1 : 0);
    MESH_RETURN_IF_ERROR(ring->reserve(SequenceId{s}, static_cast<std::uint32_t>(positions)));
  }
  Evaluation evaluation(*ring, sequences, options);
  MESH_ASSIGN_OR_RETURN(EvalResult result, evaluation.run());
  if (options.explain)
    for (const ops::KernelUse& use : backend.kernels_used())
      result.explanation.push_back(fmt::format("{:<24} {:<28} {}", use.op, use.kernel, use.isa));
  return result;
}

Result<std::vector<std::string>> run_eval(const EvalOptions& options) {
  if (options.threads < 1 || options.threads > limits::kComputeThreads)
    return bad(
        fmt::format("{} threads; 1 to {} are possible", options.threads, limits::kComputeThreads));
  MESH_ASSIGN_OR_RETURN(const formats::Quantize quantize,
                        formats::parse_quantize(options.quantize));
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles model, formats::open_model(options.model, options.hub));
  formats::quantize_model(model, quantize);
  if (!options.kv_dtype.empty()) {
    MESH_ASSIGN_OR_RETURN(model.kv_type, ops::parse_kv_dtype(options.kv_dtype));
  }
  MESH_ASSIGN_OR_RETURN(const std::unique_ptr<ops::Backend> backend,
                        backends::make_backend(options.backend, {options.threads, options.isa}));
  std::vector<std::vector<TokenId>> sequences;
  for (const std::string& path : options.ids_files) {
    MESH_ASSIGN_OR_RETURN(const std::string text,
                          formats::read_text_file(path, limits::kJsonFileBytes));
    MESH_ASSIGN_OR_RETURN(std::vector<TokenId> ids, parse_ids(text, path));
    sequences.push_back(std::move(ids));
  }
  MESH_ASSIGN_OR_RETURN(const EvalResult result, evaluate(*backend, model, sequences, options));
  if (!options.out_file.empty()) {
    MESH_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::parse_config(model));
    MESH_RETURN_IF_ERROR(write_output(result, spec, options));
  }
  return result.explanation;
}

}  // namespace mesh::engine
