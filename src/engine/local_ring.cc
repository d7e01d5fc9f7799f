#include "engine/local_ring.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/step_job.h"

namespace mesh::engine {

Result<std::unique_ptr<LocalRing>> LocalRing::make(ops::Backend& backend,
                                                   const formats::TensorSource& source,
                                                   const model::ModelSpec& spec,
                                                   const RingOptions& options) {
  std::unique_ptr<LocalRing> ring(new LocalRing());
  std::uint32_t begin = 0;
  for (std::size_t i = 0; i <= options.cuts.size(); ++i) {
    const std::uint32_t end = i < options.cuts.size() ? options.cuts[i] : spec.layers;
    if (end <= begin || end > spec.layers)
      return Error(Code::kInvalidArgument,
                   fmt::format("a cut at layer {} after {}; cuts ascend from 1 to {}", end, begin,
                               spec.layers - 1));
    MESH_ASSIGN_OR_RETURN(std::unique_ptr<Stage> stage,
                          Stage::load(backend, source, spec, LayerRange{begin, end},
                                      StageOptions{.pages = options.pages}));
    if (options.kv_starts_as_nan) stage->kv().fill_with_nan();
    ring->stages_.push_back(std::move(stage));
    ring->tables_.emplace_back(options.pages);
    begin = end;
  }
  return ring;
}

Result<void> LocalRing::reserve(SequenceId sequence, std::uint32_t positions_max) {
  MESH_RETURN_IF_ERROR(tables_.front().reserve(sequence, positions_max));
  // All pools are equal and see the same calls: what one holds, all hold.
  for (std::size_t i = 1; i < tables_.size(); ++i)
    tables_[i].reserve(sequence, positions_max).value();
  return {};
}

void LocalRing::release(SequenceId sequence) {
  for (kvcache::PageTables& tables : tables_) tables.release(sequence);
}

Result<StepOutput> LocalRing::step(std::span<const RingRows> rows, const StageProbe* probe) {
  Buffer residual;
  std::vector<std::uint8_t> non_finite(rows.size());
  for (std::size_t i = 0; i < stages_.size(); ++i) {
    const bool last = i + 1 == stages_.size();
    BatchPlan plan;
    std::vector<SampleRows> sample;
    for (const RingRows& part : rows) {
      plan.parts.push_back({part.sequence, part.first_position,
                            static_cast<std::int32_t>(part.tokens.size()),
                            static_cast<std::int32_t>(plan.tokens.size()), false});
      plan.tokens.insert(plan.tokens.end(), part.tokens.begin(), part.tokens.end());
      sample.emplace_back();
      if (last && part.sample)
        sample.back().rows.emplace_back(static_cast<std::int32_t>(part.tokens.size()) - 1,
                                        part.spec);
    }
    plan.hidden = std::move(residual);
    MESH_ASSIGN_OR_RETURN(StepJob job, make_step_job(std::move(plan), tables_[i], sample));
    MESH_ASSIGN_OR_RETURN(StepOutput out, stages_[i]->run(job, probe));
    for (std::size_t s = 0; s < non_finite.size(); ++s)
      non_finite[s] = std::max(non_finite[s], out.non_finite[s]);
    if (last) {
      out.non_finite = std::move(non_finite);
      return out;
    }
    residual = std::move(out.residual_out);
  }
  MESH_CHECK(false, "a ring without stages");
}

}  // namespace mesh::engine
