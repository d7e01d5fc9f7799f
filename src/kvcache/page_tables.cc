#include "kvcache/page_tables.h"

#include <fmt/format.h>

#include "base/limits.h"

namespace mesh::kvcache {

Result<void> PageTables::reserve(SequenceId sequence, std::uint32_t positions_max) {
  if (positions_max == 0)
    return Error(Code::kInvalidArgument, "a sequence must reserve at least one position");
  const auto found = tables_.find(sequence);
  if (found == tables_.end() && tables_.size() >= limits::kSequencesPerStage)
    return Error(Code::kResourceExhausted,
                 fmt::format("{} sequences hold pages already, the limit of a stage",
                             limits::kSequencesPerStage));
  const std::uint32_t wanted = pages_for(positions_max);
  const std::uint32_t held =
      found == tables_.end() ? 0 : static_cast<std::uint32_t>(found->second.size());
  if (wanted <= held) return {};
  if (wanted - held > pool_.free_pages())
    return Error(Code::kResourceExhausted,
                 fmt::format("{} KV pages wanted for {} positions, {} of {} free", wanted - held,
                             positions_max, pool_.free_pages(), pool_.total()));
  std::vector<PageId>& table = tables_[sequence];
  table.reserve(wanted);
  const bool taken = pool_.take(wanted - held, table);
  MESH_CHECK(taken, "{} pages, {} free", wanted - held, pool_.free_pages());
  return {};
}

std::span<const PageId> PageTables::pages(SequenceId sequence) const {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return {};
  return found->second;
}

bool PageTables::release(SequenceId sequence) {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return false;
  for (std::size_t i = found->second.size(); i > 0; --i) pool_.give_back(found->second[i - 1]);
  tables_.erase(found);
  return true;
}

}  // namespace mesh::kvcache
