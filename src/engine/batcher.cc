#include "engine/batcher.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>

namespace mesh::engine {
namespace {

void erase_from(std::deque<SequenceId>& queue, SequenceId sequence) {
  queue.erase(std::remove(queue.begin(), queue.end(), sequence), queue.end());
}

}  // namespace

Batcher::Batcher(const BatcherOptions& options) : options_(options) {
  MESH_CHECK(options.batch_rows > 1 && options.prompt_rows > 0, "{} and {} rows",
             options.batch_rows, options.prompt_rows);
}

Result<void> Batcher::add_rows(SequenceId sequence, std::int32_t first_position,
                               std::span<const TokenId> tokens, Buffer rows, bool is_decode) {
  const std::size_t row_bytes = options_.row_bytes;
  const std::size_t count = row_bytes > 0 ? rows.size() / row_bytes : tokens.size();
  if (count == 0) return Error(Code::kInvalidArgument, "no rows to run");
  if (rows.size() != count * row_bytes)
    return Error(Code::kInvalidArgument,
                 fmt::format("{} bytes are not whole rows of {} bytes", rows.size(), row_bytes));
  if (!tokens.empty() && tokens.size() != count)
    return Error(Code::kInvalidArgument,
                 fmt::format("{} tokens for {} rows", tokens.size(), count));
  if (is_decode && count != 1)
    return Error(Code::kInvalidArgument, fmt::format("a decode step of {} rows", count));
  if (first_position < 0 ||
      count > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max() - first_position))
    return Error(Code::kInvalidArgument,
                 fmt::format("{} rows at position {}", count, first_position));
  const auto found = waiting_.find(sequence);
  if (found != waiting_.end()) {
    const std::size_t expected =
        static_cast<std::size_t>(found->second.next_position) + found->second.rows;
    if (static_cast<std::size_t>(first_position) != expected)
      return Error(Code::kInvalidArgument, fmt::format("rows at position {} after position {}",
                                                       first_position, expected - 1));
  } else if (waiting_.size() >= limits::kSequencesPerStage) {
    return Error(Code::kResourceExhausted,
                 fmt::format("rows of {} sequences wait already", waiting_.size()));
  }
  const std::size_t bytes = count * (row_bytes + sizeof(TokenId));
  if (bytes > limits::kWaitingRowBytes - waiting_bytes_)
    return Error(Code::kResourceExhausted,
                 fmt::format("{} bytes of rows wait, {} more are too many", waiting_bytes_, bytes));
  Waiting& waiting = waiting_[sequence];
  if (waiting.rows == 0) waiting.next_position = first_position;
  const bool was_decode = waiting.rows > 0 && waiting.is_decode();
  Piece piece;
  piece.tokens.assign(tokens.begin(), tokens.end());
  piece.hidden = std::move(rows);
  piece.rows = count;
  piece.decode = is_decode;
  const bool is_new = waiting.rows == 0;
  waiting.rows += count;
  waiting.pieces.push_back(std::move(piece));
  waiting_rows_ += count;
  waiting_bytes_ += bytes;
  if (was_decode) erase_from(decodes_, sequence);
  if (is_new || was_decode) enqueue(sequence);
  return {};
}

void Batcher::enqueue(SequenceId sequence) {
  (waiting_.at(sequence).is_decode() ? decodes_ : prompts_).push_back(sequence);
}

std::optional<BatchPlan> Batcher::next(const BatchLimits& most) {
  const bool no_prompts = most.prompts_wait || prompts_.empty();
  if (no_prompts && (most.decodes_wait || decodes_.empty())) return std::nullopt;
  const std::size_t prompt_rows =
      most.prompts_wait ? 0 : std::clamp<std::size_t>(most.prompt_rows, 1, options_.prompt_rows);
  const std::size_t prompt_share =
      no_prompts ? 0 : std::clamp<std::size_t>(options_.batch_rows / 4, 1, prompt_rows);
  const std::size_t decode_rows =
      most.decodes_wait
          ? 0
          : std::clamp<std::size_t>(most.decode_rows, 1, options_.batch_rows - prompt_share);
  std::vector<std::pair<SequenceId, std::size_t>> chosen;
  while (!decodes_.empty() && chosen.size() < decode_rows) {
    chosen.emplace_back(decodes_.front(), 1);
    decodes_.pop_front();
  }
  std::size_t total = chosen.size();
  std::size_t budget = std::min(prompt_rows, options_.batch_rows - total);
  while (!prompts_.empty() && budget > 0) {
    const std::size_t rows = std::min(budget, waiting_.at(prompts_.front()).rows);
    chosen.emplace_back(prompts_.front(), rows);
    prompts_.pop_front();
    budget -= rows;
    total += rows;
  }
  BatchPlan plan;
  plan.tokens.reserve(total);
  plan.hidden = Buffer(total * options_.row_bytes);
  for (const auto& [sequence, rows] : chosen) take(sequence, rows, plan);
  for (const auto& [sequence, rows] : chosen)
    if (waiting_.contains(sequence)) enqueue(sequence);
  return plan;
}

// Moves the first `rows` rows of a sequence to the end of the plan.
void Batcher::take(SequenceId sequence, std::size_t rows, BatchPlan& plan) {
  const auto found = waiting_.find(sequence);
  Waiting& waiting = found->second;
  plan.parts.push_back({sequence, waiting.next_position, static_cast<std::int32_t>(rows),
                        static_cast<std::int32_t>(plan.rows()), waiting.is_decode()});
  for (std::size_t left = rows; left > 0;) {
    Piece& piece = waiting.pieces.front();
    const std::size_t count = std::min(left, piece.rows - piece.taken);
    const std::size_t row_bytes = options_.row_bytes;
    if (row_bytes > 0)
      std::memcpy(plan.hidden.data() + plan.rows() * row_bytes,
                  piece.hidden.data() + piece.taken * row_bytes, count * row_bytes);
    if (piece.tokens.empty())
      plan.tokens.insert(plan.tokens.end(), count, TokenId{0});
    else
      plan.tokens.insert(plan.tokens.end(),
                         piece.tokens.begin() + static_cast<std::ptrdiff_t>(piece.taken),
                         piece.tokens.begin() + static_cast<std::ptrdiff_t>(piece.taken + count));
    piece.taken += count;
    left -= count;
    if (piece.taken == piece.rows) waiting.pieces.pop_front();
  }
  waiting.next_position += static_cast<std::int32_t>(rows);
  waiting.rows -= rows;
  forget(rows);
  if (waiting.rows == 0) waiting_.erase(found);
}

std::size_t Batcher::drop(SequenceId sequence) {
  const auto found = waiting_.find(sequence);
  if (found == waiting_.end()) return 0;
  erase_from(found->second.is_decode() ? decodes_ : prompts_, sequence);
  const std::size_t rows = found->second.rows;
  forget(rows);
  waiting_.erase(found);
  return rows;
}

void Batcher::forget(std::size_t rows) {
  waiting_rows_ -= rows;
  waiting_bytes_ -= rows * (options_.row_bytes + sizeof(TokenId));
}

}  // namespace mesh::engine
