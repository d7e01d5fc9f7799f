#include "engine/stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "base/limits.h"
#include "engine/sampler.h"
#include "engine/step_job.h"
#include "kvcache/page_tables.h"
#include "model/decoder.h"
#include "model/rope.h"
#include "model/weights.h"

namespace mesh::engine {
namespace {

static_assert(kvcache::kPagePositions == ops::kPageTokens);

// Rows of logits that a probe gets at once; bounds the memory of large vocabularies.
constexpr std::size_t kProbeRows = 512;

// Memory of the logits that are sampled from at a time: prompts may want a row for every position.
constexpr std::size_t kSampleBytes = 128u << 20;

// Whether every value of residual rows is finite.
bool rows_finite(std::span<const std::byte> rows, tensor::DType dtype) {
  if (dtype == tensor::DType::kF32)
    return all_finite({reinterpret_cast<const float*>(rows.data()), rows.size() / sizeof(float)});
  std::uint16_t largest = 0;
  for (std::size_t i = 0; i + 1 < rows.size(); i += 2) {
    std::uint16_t value = 0;
    std::memcpy(&value, rows.data() + i, sizeof(value));
    largest = std::max<std::uint16_t>(largest, value & 0x7FFFu);
  }
  return largest < 0x7F80u;
}

// What the weights of a range leave of the memory offered, for the KV cache.
Result<std::uint64_t> kv_room(const model::ModelSpec& spec, const formats::TensorSource& source,
                              LayerRange layers, const StageOptions& options) {
  if (options.memory_bytes == 0) return options.kv_bytes;
  const std::uint64_t weights = model::stage_bytes(spec, source, layers);
  if (weights >= options.memory_bytes)
    return Error(Code::kResourceExhausted,
                 fmt::format("layers {} weigh {} bytes, this node offers {}", layers.to_string(),
                             weights, options.memory_bytes));
  return std::min(options.kv_bytes, options.memory_bytes - weights);
}

// Pages of the KV pool. Errors: resource_exhausted (less than one page besides the reserved one).
Result<std::uint32_t> pool_pages(const model::ModelSpec& spec, const formats::TensorSource& source,
                                 const ops::KvLayout& layout, LayerRange layers,
                                 const StageOptions& options) {
  if (options.pages > 0) return options.pages;
  MESH_ASSIGN_OR_RETURN(const std::uint64_t kv_bytes, kv_room(spec, source, layers, options));
  const std::uint64_t page_bytes = ops::kv_page_bytes(layout);
  const std::uint64_t useful =
      std::uint64_t{limits::kSequencesPerStage} * kvcache::pages_for(spec.context) + 1;
  const std::uint64_t pages = std::min(
      {kv_bytes / page_bytes, useful, std::uint64_t{std::numeric_limits<std::int32_t>::max()}});
  if (pages < 2)
    return Error(Code::kResourceExhausted,
                 fmt::format("{} bytes for the KV cache of layers {}, two pages need {}", kv_bytes,
                             layers.to_string(), 2 * page_bytes));
  return static_cast<std::uint32_t>(pages);
}

// Forgets what a stage of `layers` has no use for.
void keep_only(model::StageWeights& weights, const model::ModelSpec& spec, LayerRange layers) {
  const bool first = layers.begin == 0, last = layers.end == spec.layers;
  for (std::uint32_t i = 0; i < weights.layers.size(); ++i)
    if (!layers.contains(weights.range.begin + i)) weights.layers[i].reset();
  if (!first && !(last && spec.tied)) weights.embedding.reset();
  if (!last) {
    weights.final_norm.reset();
    weights.head.reset();
  }
}

}  // namespace

struct Stage::State {
  State(ops::Backend& device, const model::ModelSpec& model, model::StageWeights&& loaded)
      : backend(device),
        spec(model),
        rope(model::rope_table(model.rope)),
        decoder(spec, rope),
        weights(std::move(loaded)) {}

  ops::Backend& backend;
  const model::ModelSpec spec;
  const ops::RopeTable rope;
  const model::Decoder decoder;
  model::StageWeights weights;
  std::unique_ptr<ops::KvPool> kv;
  Sampler sampler;
};

Stage::Stage(std::unique_ptr<State> state) : state_(std::move(state)) {}
Stage::~Stage() = default;

Result<std::unique_ptr<Stage>> Stage::load(ops::Backend& backend,
                                           const formats::TensorSource& source,
                                           const model::ModelSpec& spec, LayerRange layers,
                                           const StageOptions& options,
                                           std::unique_ptr<Stage> previous) {
  if (layers.empty() || layers.end > spec.layers)
    return Error(Code::kInvalidArgument,
                 fmt::format("layers {} of a model of {}", layers.to_string(), spec.layers));
  const ops::KvLayout layout{layers.size(), spec.kv_heads, spec.head_dim, spec.kv};
  MESH_ASSIGN_OR_RETURN(const std::uint32_t pages,
                        pool_pages(spec, source, layout, layers, options));
  model::StageWeights held;
  model::LoadOptions load_options;
  load_options.progress = options.progress;
  if (previous != nullptr) {
    held = std::move(previous->state_->weights);
    previous.reset();
    keep_only(held, spec, layers);
    load_options.reuse = &held;
  }
  MESH_ASSIGN_OR_RETURN(model::StageWeights weights,
                        model::load_stage(spec, source, backend, layers, load_options));
  auto state = std::make_unique<State>(backend, spec, std::move(weights));
  MESH_ASSIGN_OR_RETURN(state->kv, backend.make_kv(layout, pages));
  return std::unique_ptr<Stage>(new Stage(std::move(state)));
}

const model::ModelSpec& Stage::spec() const {
  return state_->spec;
}
LayerRange Stage::layers() const {
  return state_->weights.range;
}
bool Stage::is_first() const {
  return layers().begin == 0;
}
bool Stage::is_last() const {
  return layers().end == state_->spec.layers;
}
std::size_t Stage::row_bytes() const {
  return state_->spec.hidden * tensor::dtype_bytes(state_->spec.residual);
}
ops::KvPool& Stage::kv() {
  return *state_->kv;
}

LoadReport Stage::report() const {
  LoadReport report;
  report.layers = layers();
  report.bytes_loaded = state_->weights.source_bytes;
  report.pages = state_->kv->pages();
  report.layer_hash = state_->weights.layer_hashes();
  return report;
}

Result<StepOutput> Stage::run(const StepJob& job, const StageProbe* probe) {
  const model::ModelSpec& spec = state_->spec;
  MESH_RETURN_IF_ERROR(
      check_step_job(job, state_->kv->pages(), spec.context, is_first() ? spec.vocabulary : 0,
                     is_first() ? 0 : row_bytes(), is_last() ? spec.vocabulary : 0));
  ops::Batch batch;
  batch.tokens = job.tokens;
  batch.positions = job.positions;
  batch.row_start = job.row_start;
  batch.kv_length = job.kv_length;
  batch.page_start = job.page_start;
  batch.pages = job.pages;
  batch.residual_in = job.residual_in.span();
  batch.hidden = spec.hidden;
  batch.residual = spec.residual;
  const std::unique_ptr<ops::Step> step = state_->backend.begin_step(state_->kv.get(), batch);

  model::Decoder::Observer observer;
  if (probe != nullptr && probe->residual)
    observer = [&](std::uint32_t done, ops::Step& running, const ops::Tensor& residual) {
      if (done > layers().begin || is_first()) probe->residual(done, running.read(residual));
    };
  const ops::Tensor residual =
      state_->decoder.run_layers(*step, state_->weights, layers(), observer);

  StepOutput out;
  const std::span<const std::byte> rows = step->read(residual);
  out.non_finite.assign(job.kv_length.size(), 0);
  for (std::size_t s = 0; s < job.kv_length.size(); ++s) {
    const std::size_t first = static_cast<std::size_t>(job.row_start[s]) * row_bytes();
    const std::size_t end = static_cast<std::size_t>(job.row_start[s + 1]) * row_bytes();
    if (!rows_finite(rows.subspan(first, end - first), spec.residual)) out.non_finite[s] = 1;
  }
  if (!is_last()) {
    out.residual_out = Buffer::copy_of(rows);
    return out;
  }
  sample(*step, residual, job, out);
  if (probe != nullptr && probe->logits) show_logits(*step, residual, *probe);
  return out;
}

void Stage::sample(ops::Step& step, const ops::Tensor& residual, const StepJob& job,
                   StepOutput& out) {
  const std::size_t vocabulary = state_->spec.vocabulary;
  const std::size_t group = std::max<std::size_t>(16, kSampleBytes / sizeof(float) / vocabulary);
  const std::span<const std::int32_t> all = job.sample_rows;
  const SampleSpec likeliest;
  std::size_t s = 0;
  for (std::size_t first = 0; first < all.size(); first += group) {
    const auto rows = all.subspan(first, std::min(group, all.size() - first));
    const std::span<const std::byte> bytes =
        step.read(state_->decoder.logits(step, state_->weights, residual, rows));
    const float* row = reinterpret_cast<const float*>(bytes.data());
    for (std::size_t i = 0; i < rows.size(); ++i, row += vocabulary) {
      while (job.row_start[s + 1] <= rows[i]) ++s;
      const std::span<const float> logits(row, vocabulary);
      const SampleSpec& spec = job.sampling.empty() ? likeliest : job.sampling[first + i];
      if (all_finite(logits)) {
        out.sampled.push_back(state_->sampler.sample(logits, spec));
      } else {
        out.non_finite[s] = 1;
        out.sampled.emplace_back();
      }
    }
  }
}

void Stage::show_logits(ops::Step& step, const ops::Tensor& residual, const StageProbe& probe) {
  const auto rows = static_cast<std::size_t>(residual.rows);
  for (std::size_t first = 0; first < rows; first += kProbeRows) {
    std::vector<std::int32_t> group(std::min(kProbeRows, rows - first));
    std::iota(group.begin(), group.end(), static_cast<std::int32_t>(first));
    const std::span<const std::byte> bytes =
        step.read(state_->decoder.logits(step, state_->weights, residual, group));
    probe.logits(first, {reinterpret_cast<const float*>(bytes.data()),
                         group.size() * state_->spec.vocabulary});
  }
}

}  // namespace mesh::engine
