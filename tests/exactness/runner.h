#pragma once
// Runs a model in one configuration and hashes every hop row and logit row it makes.

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/local_ring.h"
#include "ops/ops.h"
#include "subjects.h"

namespace mesh::exactness {

// Hashes of one position of one content: the hop row behind 0, 1 … L layers, then the logit row.
using RowHashes = std::vector<std::uint64_t>;

// One hash for each place and position; a position that was not run is empty.
using ContentHashes = std::vector<std::vector<RowHashes>>;  // [content][position]

// Consecutive rows of one instance of a content within a step.
struct ScheduledRows {
  std::size_t instance = 0;
  std::int32_t first_position = 0;
  std::int32_t rows = 0;
};

struct Schedule {
  std::vector<std::size_t> content_of;  // by instance
  std::vector<std::vector<ScheduledRows>> steps;
};

// Steps of `rows` rows each, a sequence giving at most `chunk` of them (0: no limit), until
// `rows_total` rows have run or no content is left. Instances take the contents round robin from
// `first_content` on, so that a large batch holds the same content several times.
Schedule make_schedule(const Subject& subject, std::size_t rows, std::size_t chunk,
                       std::size_t rows_total, std::size_t first_content);

// Runs the schedule on a fresh ring whose unwritten KV slots are NaN. Every instance of a content
// must give the same hashes: the first that does not is an error (internal) that names the place.
// Rows that `expected` knows are compared with it likewise; others are entered.
Result<void> run_schedule(ops::Backend& backend, const Subject& subject,
                          const std::vector<std::uint32_t>& cuts, const Schedule& schedule,
                          ContentHashes& expected);

// One hash over all rows of all contents.
std::uint64_t digest(const ContentHashes& hashes);

}  // namespace mesh::exactness
