#include "pipeline/prompt_window.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace mesh::pipeline {

std::size_t PromptWindow::room(PeerId next) const {
  const auto found = ahead_.find(next);
  return limits::kPromptRowsAhead - (found == ahead_.end() ? 0 : found->second);
}

void PromptWindow::sent(PeerId next, std::size_t rows) {
  MESH_CHECK(rows <= room(next), "{} prompt rows sent, room for {}", rows, room(next));
  if (rows > 0) ahead_[next] += rows;
}

void PromptWindow::acknowledged(PeerId next, std::size_t rows) {
  const auto found = ahead_.find(next);
  if (found == ahead_.end()) return;
  found->second -= std::min(found->second, rows);
  if (found->second == 0) ahead_.erase(found);
}

void PromptWindow::arrived(PeerId from, std::size_t rows) {
  if (rows > 0) incoming_[from].waiting += rows;
}

void PromptWindow::done(PeerId from, std::size_t rows) {
  if (rows == 0) return;
  Incoming& link = incoming_[from];
  MESH_CHECK(rows <= link.waiting, "{} prompt rows done, {} wait", rows, link.waiting);
  link.waiting -= rows;
  link.done += rows;
}

std::uint32_t PromptWindow::tell(PeerId from) {
  const auto found = incoming_.find(from);
  if (found == incoming_.end()) return 0;
  Incoming& link = found->second;
  if (link.waiting > 0 && link.done < limits::kPromptRowsDone) return 0;
  const auto told = static_cast<std::uint32_t>(std::exchange(link.done, 0));
  if (link.waiting == 0) incoming_.erase(found);
  return told;
}

void PromptWindow::lost(PeerId peer) {
  ahead_.erase(peer);
  incoming_.erase(peer);
}

}  // namespace mesh::pipeline
