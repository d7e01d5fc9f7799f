#include "kvcache/page_tables.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/limits.h"

namespace mesh::kvcache {
namespace {

Error no_positions() {
  return Error(Code::kInvalidArgument, "a sequence must reserve at least one position");
}

Error unknown() {
  return Error(Code::kNotFound, "the sequence owns no pages");
}

}  // namespace

Error PageTables::exhausted(std::uint32_t wanted, std::uint32_t positions,
                            std::uint32_t left) const {
  return Error(Code::kResourceExhausted,
               fmt::format("{} KV pages wanted for {} positions, {} of {} free", wanted, positions,
                           left, total()));
}

Result<std::uint32_t> PageTables::open(SequenceId sequence, std::uint32_t positions_max,
                                       std::span<const PageKey> keys) {
  if (positions_max == 0) return no_positions();
  if (tables_.contains(sequence))
    return Error(Code::kInvalidArgument, "the sequence owns pages already");
  if (tables_.size() >= limits::kSequencesPerStage)
    return Error(Code::kResourceExhausted,
                 fmt::format("{} sequences hold pages already, the limit of a stage",
                             limits::kSequencesPerStage));
  keys = keys.first(std::min<std::size_t>(keys.size(), (positions_max - 1) / kPagePositions));
  Table table;
  table.pages = cache_.find(keys);
  table.shared = static_cast<std::uint32_t>(table.pages.size());
  const std::uint32_t wanted = pages_for(positions_max) - table.shared;
  const auto woken = static_cast<std::uint32_t>(
      std::count_if(table.pages.begin(), table.pages.end(),
                    [this](PageId page) { return cache_.owners(page) == 0; }));
  const std::uint32_t left = free_pages() + cached() - woken;
  if (wanted > left) return exhausted(wanted, positions_max, left);
  for (const PageId page : table.pages) cache_.pin(page);
  table.pages.reserve(table.pages.size() + wanted);
  const bool taken = cache_.take(wanted, table.pages);
  MESH_CHECK(taken, "{} pages, {} left", wanted, left);
  table.next = table.shared * kPagePositions;
  if (table.shared > 0) table.key = keys[table.shared - 1];
  table.enters = cache_.reuse();
  const std::uint32_t cached_positions = table.next;
  tables_.emplace(sequence, std::move(table));
  return cached_positions;
}

Result<void> PageTables::extend(SequenceId sequence, std::uint32_t positions_max) {
  if (positions_max == 0) return no_positions();
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return unknown();
  std::vector<PageId>& pages = found->second.pages;
  const auto held = static_cast<std::uint32_t>(pages.size());
  const std::uint32_t wanted = pages_for(positions_max);
  if (wanted <= held) return {};
  if (!cache_.take(wanted - held, pages))
    return exhausted(wanted - held, positions_max, free_pages() + cached());
  return {};
}

Result<void> PageTables::reserve(SequenceId sequence, std::uint32_t positions_max) {
  if (tables_.contains(sequence)) return extend(sequence, positions_max);
  const Result<std::uint32_t> opened = open(sequence, positions_max, {});
  if (!opened.ok()) return opened.error();
  return {};
}

Result<void> PageTables::begin(SequenceId sequence, std::uint32_t first) {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return unknown();
  Table& table = found->second;
  if (table.moved || first % kPagePositions != 0 || first > table.next)
    return Error(Code::kInvalidArgument,
                 fmt::format("a sequence with {} positions begins at {}", table.next, first));
  const std::uint32_t keep = first / kPagePositions;
  std::uint32_t left = free_pages() + cached();
  for (std::uint32_t i = keep; i < table.shared; ++i)
    left += cache_.owners(table.pages[i]) == 1 ? 1 : 0;
  const std::uint32_t wanted = table.shared - keep;
  if (wanted > left) return exhausted(wanted, wanted * kPagePositions, left);
  for (std::uint32_t i = table.shared; i > keep; --i) cache_.unpin(table.pages[i - 1]);
  std::vector<PageId> fresh;
  const bool taken = cache_.take(wanted, fresh);
  MESH_CHECK(taken, "{} pages, {} left", wanted, left);
  std::copy(fresh.begin(), fresh.end(), table.pages.begin() + keep);
  table.shared = keep;
  table.next = first;
  table.key = keep == 0 ? kRootKey : cache_.key(table.pages[keep - 1]);
  return {};
}

void PageTables::computed(SequenceId sequence, std::span<const TokenId> tokens) {
  const auto found = tables_.find(sequence);
  if (found == tables_.end() || tokens.empty()) return;
  Table& table = found->second;
  MESH_CHECK(tokens.size() <= table.pages.size() * kPagePositions - table.next,
             "{} rows at {}, {} pages", tokens.size(), table.next, table.pages.size());
  table.moved = true;
  if (!table.enters) {
    table.next += static_cast<std::uint32_t>(tokens.size());
    return;
  }
  while (!tokens.empty()) {
    const std::size_t count = std::min(tokens.size(), kPagePositions - table.tail.size());
    table.tail.insert(table.tail.end(), tokens.begin(),
                      tokens.begin() + static_cast<std::ptrdiff_t>(count));
    tokens = tokens.subspan(count);
    table.next += static_cast<std::uint32_t>(count);
    if (table.tail.size() < kPagePositions) return;
    const PageKey key = next_key(table.key, table.tail);
    cache_.enter(table.pages[table.next / kPagePositions - 1], key, table.key);
    table.key = key;
    table.tail.clear();
  }
}

std::span<const PageId> PageTables::pages(SequenceId sequence) const {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return {};
  return found->second.pages;
}

bool PageTables::release(SequenceId sequence) {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return false;
  const std::vector<PageId>& pages = found->second.pages;
  for (std::size_t i = pages.size(); i > 0; --i) cache_.unpin(pages[i - 1]);
  tables_.erase(found);
  return true;
}

void PageTables::forget() {
  cache_.forget();
  for (auto& [id, table] : tables_) {
    table.enters = false;
    table.tail = {};
  }
}

}  // namespace mesh::kvcache
