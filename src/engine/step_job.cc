#include "engine/step_job.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

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

void add_samples(const BatchPart& part, const SampleRows& sample, StepJob& job) {
  for (std::size_t i = 0; i < sample.rows.size(); ++i) {
    const std::int32_t row = sample.rows[i].first;
    MESH_CHECK(row >= (i == 0 ? 0 : sample.rows[i - 1].first + 1) && row < part.rows,
               "sample row {} of {}", row, part.rows);
    job.sample_rows.push_back(part.offset + row);
    job.sampling.push_back(sample.rows[i].second);
  }
}

Result<void> check_samples(const StepJob& job, std::uint32_t logits) {
  for (std::size_t i = 0; i < job.sample_rows.size(); ++i) {
    const std::int32_t row = job.sample_rows[i];
    if (row < 0 || static_cast<std::size_t>(row) >= job.rows() ||
        (i > 0 && row <= job.sample_rows[i - 1]))
      return bad(fmt::format("sample row {} of {}", row, job.rows()));
  }
  if (!job.sampling.empty() && job.sampling.size() != job.sample_rows.size())
    return bad(
        fmt::format("{} specs for {} sample rows", job.sampling.size(), job.sample_rows.size()));
  for (const SampleSpec& spec : job.sampling) {
    if (spec.given && (*spec.given < 0 || static_cast<std::uint32_t>(*spec.given) >= logits))
      return bad(
          fmt::format("token {} to score is outside the vocabulary of {}", *spec.given, logits));
    if (spec.params != nullptr) MESH_RETURN_IF_ERROR(check_sampling(*spec.params));
  }
  return {};
}

}  // namespace

Result<StepJob> make_step_job(BatchPlan plan, const kvcache::PageTables& tables,
                              std::span<const SampleRows> sample) {
  MESH_CHECK(sample.empty() || sample.size() == plan.parts.size(), "samples of {} parts for {}",
             sample.size(), plan.parts.size());
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
    if (!sample.empty()) add_samples(part, sample[i], job);
  }
  return job;
}

Result<void> check_step_job(const StepJob& job, std::uint32_t pages, std::uint32_t context,
                            std::uint32_t vocabulary, std::size_t row_bytes, std::uint32_t logits) {
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
  return check_samples(job, logits);
}

Result<void> check_sampling(const SamplingParams& p) {
  struct Range {
    const char* name;
    float value, least, most;
  };
  constexpr float kMost = std::numeric_limits<float>::max();
  constexpr float kLeast = std::numeric_limits<float>::denorm_min();
  const Range ranges[] = {{"temperature", p.temperature, 0, kMost},
                          {"top_p", p.top_p, kLeast, 1},
                          {"min_p", p.min_p, 0, 1},
                          {"repetition_penalty", p.repetition_penalty, kLeast, kMost},
                          {"presence_penalty", p.presence_penalty, -2, 2},
                          {"frequency_penalty", p.frequency_penalty, -2, 2}};
  for (const Range& range : ranges)
    if (!(range.value >= range.least && range.value <= range.most))
      return bad(fmt::format("{} is {}, outside its range", range.name, range.value));
  for (const auto& [id, bias] : p.logit_bias)
    if (!std::isfinite(bias)) return bad(fmt::format("the logit_bias of {} is not finite", id));
  return {};
}

}  // namespace mesh::engine
