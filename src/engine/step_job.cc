#include "engine/step_job.h"

#include <fmt/format.h>

namespace mesh::engine {
namespace {

Error bad(std::string message) {
  return Error(Code::kInvalidArgument, std::move(message));
}

// Offsets [S+1] that start at 0, never fall and end at `total`.
bool is_partition(std::span<const std::int32_t> offsets, std::size_t parts, std::size_t total) {
  if (offsets.size() != parts + 1 || offsets.front() != 0) return false;
  for (std::size_t i = 0; i < parts; ++i)
    if (offsets[i] > offsets[i + 1]) return false;
  return static_cast<std::size_t>(offsets.back()) == total;
}

}  // namespace

Result<StepJob> make_step_job(BatchPlan plan, const kvcache::PageTables& tables,
                              std::span<const std::uint8_t> sample) {
  MESH_CHECK(sample.empty() || sample.size() == plan.parts.size(), "{} flags for {} parts",
             sample.size(), plan.parts.size());
  std::vector<std::int32_t> rows;
  for (std::size_t i = 0; i < sample.size(); ++i)
    if (sample[i] != 0) rows.push_back(plan.parts[i].offset + plan.parts[i].rows - 1);
  Result<StepJob> job = make_step_job(std::move(plan), tables, std::span<const SampleRows>());
  if (job.ok()) job->sample_rows = std::move(rows);
  return job;
}

Result<StepJob> make_step_job(BatchPlan plan, const kvcache::PageTables& tables,
                              std::span<const SampleRows> samples) {
  MESH_CHECK(samples.empty() || samples.size() == plan.parts.size(), "{} samples for {} parts",
             samples.size(), plan.parts.size());
  StepJob job;
  job.tokens = std::move(plan.tokens);
  job.residual_in = std::move(plan.hidden);
  job.positions.reserve(job.tokens.size());
  job.row_start.push_back(0);
  job.page_start.push_back(0);
  for (std::size_t i = 0; i < plan.parts.size(); ++i) {
    const BatchPart& part = plan.parts[i];
    const std::int32_t length = part.first_position + part.rows;
    const std::uint32_t wanted = kvcache::pages_for(static_cast<std::uint32_t>(length));
    const std::span<const PageId> pages = tables.pages(part.sequence);
    if (wanted > pages.size())
      return Error(Code::kResourceExhausted,
                   fmt::format("{} positions need {} KV pages, the sequence has reserved {}",
                               length, wanted, pages.size()));
    for (std::int32_t position = part.first_position; position < length; ++position)
      job.positions.push_back(position);
    job.row_start.push_back(part.offset + part.rows);
    job.kv_length.push_back(length);
    job.pages.insert(job.pages.end(), pages.begin(), pages.begin() + wanted);
    job.page_start.push_back(static_cast<std::int32_t>(job.pages.size()));
    if (samples.empty()) continue;
    for (const auto& [row, spec] : samples[i].rows) {
      MESH_CHECK(row >= 0 && row < part.rows, "row {} of {}", row, part.rows);
      job.sample_rows.push_back(part.offset + row);
      job.sampling.push_back(spec);
    }
  }
  return job;
}

Result<void> check_step_job(const StepJob& job, std::uint32_t pages, std::uint32_t context,
                            std::uint32_t vocabulary, std::size_t row_bytes) {
  const std::size_t rows = job.rows(), sequences = job.kv_length.size();
  if (rows == 0 || sequences == 0) return bad("a step without rows");
  if (rows > limits::kBatchRows)
    return bad(fmt::format("{} rows, a step has at most {}", rows, limits::kBatchRows));
  if (!is_partition(job.row_start, sequences, rows)) return bad("row_start does not cut the rows");
  if (!is_partition(job.page_start, sequences, job.pages.size()))
    return bad("page_start does not cut the pages");
  if (job.residual_in.size() != rows * row_bytes)
    return bad(fmt::format("{} bytes of residual for {} rows of {}", job.residual_in.size(), rows,
                           row_bytes));
  if (vocabulary > 0) {
    if (job.tokens.size() != rows)
      return bad(fmt::format("{} tokens for {} rows", job.tokens.size(), rows));
    for (TokenId token : job.tokens)
      if (token < 0 || static_cast<std::uint32_t>(token) >= vocabulary)
        return bad(fmt::format("token {} outside the vocabulary of {}", token, vocabulary));
  }
  for (PageId page : job.pages)
    if (page.value == 0 || page.value >= pages)
      return bad(fmt::format("page {} outside a pool of {}", page.value, pages));
  for (std::size_t s = 0; s < sequences; ++s) {
    const std::int32_t begin = job.row_start[s], end = job.row_start[s + 1];
    const std::int64_t length = job.kv_length[s];
    if (begin == end) return bad("a sequence without rows");
    if (length <= 0 || length > static_cast<std::int64_t>(context))
      return bad(fmt::format("{} positions, the context has {}", length, context));
    for (std::int32_t row = begin; row < end; ++row)
      if (job.positions[static_cast<std::size_t>(row)] != length - (end - row) ||
          job.positions[static_cast<std::size_t>(row)] < 0)
        return bad("rows of a sequence are not its last positions");
    const std::int64_t covered =
        std::int64_t{kvcache::kPagePositions} * (job.page_start[s + 1] - job.page_start[s]);
    if (covered < length)
      return bad(fmt::format("pages for {} positions, {} are cached", covered, length));
  }
  for (std::size_t i = 0; i < job.sample_rows.size(); ++i) {
    const std::int32_t row = job.sample_rows[i];
    if (row < 0 || static_cast<std::size_t>(row) >= rows ||
        (i > 0 && row <= job.sample_rows[i - 1]))
      return bad(fmt::format("sample row {} of {}", row, rows));
  }
  return {};
}

}  // namespace mesh::engine
