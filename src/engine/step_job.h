#pragma once
// From a batch plan and the page tables of a stage to the job its engine runs.

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/batcher.h"
#include "engine/compute.h"
#include "kvcache/page_tables.h"

namespace mesh::engine {

// Rows of one part of a plan that are sampled.
struct SampleRows {
  std::vector<std::pair<std::int32_t, SampleSpec>> rows;  // row within the part, ascending
};

// `sample` holds one entry per part (last stage only), or is empty: nothing is sampled. Rows
// outside their part are our bug. Errors: resource_exhausted (a part reaches beyond the pages its
// sequence has reserved; names both).
Result<StepJob> make_step_job(BatchPlan plan, const kvcache::PageTables& tables,
                              std::span<const SampleRows> sample);

// What a stage knows without looking at a model: nothing in a job may be trusted to index memory
// before this has passed. `vocabulary` 0: tokens are not used. `logits`: values of a row of logits,
// 0 on a stage that is not the last and samples nothing. Ids in bias, stop ids and
// history need not be in the vocabulary: the sampler passes over those that are not. Errors:
// invalid_argument.
Result<void> check_step_job(const StepJob& job, std::uint32_t pages, std::uint32_t context,
                            std::uint32_t vocabulary, std::size_t row_bytes,
                            std::uint32_t logits = 0);

// Whether the numbers lie in the ranges of base/sampling.h and are finite. Errors:
// invalid_argument (names the parameter).
Result<void> check_sampling(const SamplingParams& params);

}  // namespace mesh::engine
