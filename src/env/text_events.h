#pragma once
// Events as lines of text or JSON, on standard error or in a file.

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/events.h"
#include "base/result.h"
#include "env/env.h"

namespace mesh::env {

// text: 2026-01-01T12:00:00.123Z info stage.joined peer=abc layers=0:4
// JSON: {"time":"2026-01-01T12:00:00.123Z","level":"info","event":"stage.joined","peer":"abc",…}
// Field values are JSON strings; a field named time, level or event gets "_" behind its name.
// Thread-safe; one write(2) per event, so lines of several processes in one file do not mix. A
// sink that cannot be written loses the line: logging never stops the node.
class TextEvents final : public Events {
 public:
  enum class Format { kText, kJson };
  struct Options {
    std::string path;  // "": standard error; else appended to, made with mode 0640
    Format format = Format::kText;
    Level level_min = Level::kInfo;
  };
  // `clock` outlives the sink. Errors: unavailable when the file cannot be opened.
  static Result<std::unique_ptr<TextEvents>> open(Options options, const Clock& clock);
  ~TextEvents() override;
  TextEvents(const TextEvents&) = delete;
  TextEvents& operator=(const TextEvents&) = delete;

  void emit(Level level, std::string_view name, std::vector<Field> fields) override;

 private:
  TextEvents(int descriptor, Options options, const Clock& clock);
  const Clock& clock_;
  const Options options_;
  const int descriptor_;
  std::mutex mutex_;  // short writes of one event must not be interleaved
};

// "info" → kInfo. Errors: invalid_argument lists the names.
Result<Level> parse_level(std::string_view name);
// "2026-01-01T12:00:00.123Z" of unix milliseconds.
std::string format_time(std::int64_t unix_ms);
// `text` as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD.
std::string json_string(std::string_view text);

}  // namespace mesh::env
