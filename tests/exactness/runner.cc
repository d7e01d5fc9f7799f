#include "runner.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/hash.h"
#include "kvcache/page_tables.h"

namespace mesh::exactness {
namespace {

// Collects the hashes of the rows of one step.
class StepHashes {
 public:
  explicit StepHashes(const model::ModelSpec& spec) : places_(spec.layers + 2) {
    probe_.residual = [this](std::uint32_t layers_done, std::span<const std::byte> rows) {
      for (std::size_t row = 0; row < hashes_.size(); ++row) {
        const std::size_t bytes = rows.size() / hashes_.size();
        hashes_[row][layers_done] = xxh3_64(rows.subspan(row * bytes, bytes));
      }
    };
    probe_.logits = [this, &spec](std::size_t first, std::span<const float> logits) {
      for (std::size_t i = 0; i * spec.vocabulary < logits.size(); ++i)
        hashes_[first + i].back() =
            xxh3_64(std::as_bytes(logits.subspan(i * spec.vocabulary, spec.vocabulary)));
    };
  }
  void begin(std::size_t rows) { hashes_.assign(rows, RowHashes(places_)); }
  const engine::StageProbe* probe() const { return &probe_; }
  const RowHashes& row(std::size_t i) const { return hashes_[i]; }

 private:
  std::size_t places_;
  std::vector<RowHashes> hashes_;
  engine::StageProbe probe_;
};

Error difference(const RowHashes& expected, const RowHashes& found, std::size_t content,
                 std::int32_t position) {
  std::size_t place = 0;
  while (expected[place] == found[place]) ++place;
  const std::string where = place + 1 == expected.size() ? "the logits"
                            : place == 0                 ? "the embedding"
                                         : fmt::format("the hop row behind layer {}", place - 1);
  return Error(Code::kInternal,
               fmt::format("content {} position {}: {} differ", content, position, where));
}

}  // namespace

Schedule make_schedule(const Subject& subject, std::size_t rows, std::size_t chunk,
                       std::size_t rows_total, std::size_t first_content) {
  Schedule schedule;
  std::vector<std::size_t> done;  // by instance
  std::size_t total = 0;
  while (total < rows_total) {
    std::vector<ScheduledRows> step;
    std::size_t room = rows;
    for (std::size_t i = 0; room > 0; ++i) {
      if (i == done.size()) {
        done.push_back(0);
        schedule.content_of.push_back((first_content + i) % subject.contents.size());
      }
      const std::size_t left = subject.contents[schedule.content_of[i]].size() - done[i];
      const std::size_t count = std::min({room, left, chunk == 0 ? room : chunk});
      if (count == 0) continue;
      step.push_back({i, static_cast<std::int32_t>(done[i]), static_cast<std::int32_t>(count)});
      done[i] += count;
      room -= count;
      total += count;
    }
    schedule.steps.push_back(std::move(step));
  }
  return schedule;
}

Result<void> run_schedule(ops::Backend& backend, const Subject& subject,
                          const std::vector<std::uint32_t>& cuts, const Schedule& schedule,
                          ContentHashes& expected) {
  std::vector<std::uint32_t> positions(schedule.content_of.size());
  for (const auto& step : schedule.steps)
    for (const ScheduledRows& part : step)
      positions[part.instance] = static_cast<std::uint32_t>(part.first_position + part.rows);
  engine::RingOptions options;
  options.cuts = cuts;
  options.pages = 1;
  options.kv_starts_as_nan = true;
  for (std::uint32_t count : positions) options.pages += kvcache::pages_for(count);
  MESH_ASSIGN_OR_RETURN(
      std::unique_ptr<engine::LocalRing> ring,
      engine::LocalRing::make(backend, *subject.files.tensors, subject.spec, options));
  for (std::size_t i = 0; i < positions.size(); ++i)
    if (positions[i] > 0) MESH_RETURN_IF_ERROR(ring->reserve(SequenceId{i}, positions[i]));
  expected.resize(subject.contents.size());
  for (std::size_t c = 0; c < expected.size(); ++c) expected[c].resize(subject.contents[c].size());

  StepHashes hashes(subject.spec);
  for (const auto& step : schedule.steps) {
    std::vector<engine::RingRows> rows;
    std::size_t total = 0;
    for (const ScheduledRows& part : step) {
      const auto& content = subject.contents[schedule.content_of[part.instance]];
      rows.push_back({SequenceId{part.instance}, part.first_position,
                      std::span(content).subspan(static_cast<std::size_t>(part.first_position),
                                                 static_cast<std::size_t>(part.rows)),
                      true});
      total += static_cast<std::size_t>(part.rows);
    }
    hashes.begin(total);
    MESH_ASSIGN_OR_RETURN(const engine::StepOutput out, ring->step(rows, hashes.probe()));
    for (std::size_t s = 0; s < out.non_finite.size(); ++s)
      if (out.non_finite[s] != 0)
        return Error(Code::kInternal, fmt::format("content {}: values are not finite",
                                                  schedule.content_of[step[s].instance]));
    std::size_t row = 0;
    for (const ScheduledRows& part : step)
      for (std::int32_t i = 0; i < part.rows; ++i, ++row) {
        const std::size_t content = schedule.content_of[part.instance];
        RowHashes& known = expected[content][static_cast<std::size_t>(part.first_position + i)];
        if (known.empty()) known = hashes.row(row);
        if (known != hashes.row(row))
          return difference(known, hashes.row(row), content, part.first_position + i);
      }
  }
  return {};
}

std::uint64_t digest(const ContentHashes& hashes) {
  Hasher hasher;
  for (const auto& content : hashes)
    for (const RowHashes& row : content)
      for (std::uint64_t hash : row) hasher.update_value(hash);
  return hasher.digest();
}

}  // namespace mesh::exactness
