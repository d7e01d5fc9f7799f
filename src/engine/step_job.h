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

// `sample[i]` != 0: the last row of part i is sampled (last stage only); empty: nothing is. Errors:
// resource_exhausted (a part reaches beyond the pages its sequence has reserved; names both).
Result<StepJob> make_step_job(BatchPlan plan, const kvcache::PageTables& tables,
                              std::span<const std::uint8_t> sample);

// Rows of one part that are sampled or scored: (row within the part, what is wanted), ascending.
struct SampleRows {
  std::vector<std::pair<std::int32_t, SampleSpec>> rows;
};

// As above with `samples[i]` for part i; empty: nothing is sampled.
Result<StepJob> make_step_job(BatchPlan plan, const kvcache::PageTables& tables,
                              std::span<const SampleRows> samples);

// What a stage knows without looking at a model: nothing in a job may be trusted to index memory
// before this has passed. `vocabulary` 0: tokens are not used. Errors: invalid_argument.
Result<void> check_step_job(const StepJob& job, std::uint32_t pages, std::uint32_t context,
                            std::uint32_t vocabulary, std::size_t row_bytes);

}  // namespace mesh::engine
