#pragma once
// What a node prints for people: lines, and one line of progress that is overwritten on a terminal.

#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/events.h"
#include "base/time.h"

namespace mesh::cli {

// Columns that a UTF-8 text takes, one for each character.
std::size_t shown_width(std::string_view text);
// Cut with … or filled with blanks to exactly `width` columns.
std::string fitted(const std::string& text, std::size_t width);
// "██████░░" with `width` cells for a share of 0 … 1.
std::string bar(double share, std::size_t width);
// "11.8 GB", "5.3 MB".
std::string shown_bytes(std::uint64_t bytes);
// Terminal on that descriptor, NO_COLOR unset or empty and TERM not "dumb".
bool colour_wanted(int descriptor);

// "  reading weights  ████░░  3.1/11.8 GB  410 MB/s  eta 0:21"
std::string progress_text(std::uint64_t done, std::uint64_t total, double seconds);

// When to show how a long reading goes: nothing in the first second, then often on a terminal and
// every 5 s elsewhere.
class LoadProgress {
 public:
  explicit LoadProgress(bool terminal) : terminal_(terminal) {}
  // The text to show now, if any. A smaller `done` than before begins anew.
  std::optional<std::string> update(Instant now, std::uint64_t done, std::uint64_t total);

 private:
  const bool terminal_;
  std::uint64_t done_ = 0;
  std::optional<Instant> started_, shown_;
};

// One line for a "request.done" event; "" for other events. Fields that are missing are left out.
std::string request_line(std::string_view event, const std::vector<Field>& fields);

// Standard output of a node; thread-safe.
class Console {
 public:
  // Quiet: only important() prints.
  explicit Console(bool quiet);
  bool terminal() const { return terminal_; }
  void line(const std::string& text);
  void important(const std::string& text);
  // Overwrites the last progress on a terminal, else a line of its own.
  void progress(const std::string& text);
  // Removes it from the terminal.
  void end_progress();

 private:
  void clear();
  void print(const std::string& text);
  const bool quiet_;
  const bool terminal_;
  std::mutex mutex_;
  bool progress_shown_ = false;
};

}  // namespace mesh::cli
