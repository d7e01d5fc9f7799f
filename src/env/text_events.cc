#include "env/text_events.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

namespace mesh::env {
namespace {

// Length of the well-formed UTF-8 sequence at the front of `text`, 0 when there is none.
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  const std::size_t length = lead < 0x80                   ? 1
                             : lead >= 0xC2 && lead < 0xE0 ? 2
                             : lead >= 0xE0 && lead < 0xF0 ? 3
                             : lead >= 0xF0 && lead < 0xF5 ? 4
                                                           : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  if (length == 3 && ((lead == 0xE0 && byte(1) < 0xA0) || (lead == 0xED && byte(1) >= 0xA0)))
    return 0;
  if (length == 4 && ((lead == 0xF0 && byte(1) < 0x90) || (lead == 0xF4 && byte(1) >= 0x90)))
    return 0;
  return length;
}

// A line break in a value would forge a second line.
std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  return text;
}

std::string json_line(std::string_view time, Level level, std::string_view name,
                      const std::vector<Field>& fields) {
  std::string line = fmt::format("{{\"time\":\"{}\",\"level\":\"{}\",\"event\":{}", time,
                                 level_name(level), json_string(name));
  for (const Field& field : fields) {
    const bool taken = field.key == "time" || field.key == "level" || field.key == "event";
    line += ',';
    line += json_string(taken ? field.key + "_" : field.key);
    line += ':';
    line += json_string(field.value);
  }
  return line + "}\n";
}

}  // namespace

std::string json_string(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const unsigned char c = static_cast<unsigned char>(text.front());
    if (length == 0) {
      out += "\\ufffd";
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c < 0x20 || c == 0x7F) {
      out += fmt::format("\\u{:04x}", c);
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out + '"';
}

std::string format_time(std::int64_t unix_ms) {
  std::int64_t whole = unix_ms / 1000, rest = unix_ms % 1000;
  if (rest < 0) {
    rest += 1000;
    --whole;
  }
  const std::time_t time = static_cast<std::time_t>(whole);
  std::tm parts{};
  if (::gmtime_r(&time, &parts) == nullptr) return "unknown-time";
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     rest);
}

Result<Level> parse_level(std::string_view name) {
  for (const Level level : {Level::kDebug, Level::kInfo, Level::kWarn, Level::kError})
    if (name == level_name(level)) return level;
  return Error(Code::kInvalidArgument,
               fmt::format("'{}' is not a log level; use debug, info, warn or error", name));
}

Result<std::unique_ptr<TextEvents>> TextEvents::open(Options options, const Clock& clock) {
  int descriptor = STDERR_FILENO;
  if (!options.path.empty()) {
    descriptor = ::open(options.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (descriptor < 0)
      return Error(Code::kUnavailable, fmt::format("cannot open the log file {}: {}", options.path,
                                                   std::strerror(errno)));
  }
  return std::unique_ptr<TextEvents>(new TextEvents(descriptor, std::move(options), clock));
}

TextEvents::TextEvents(int descriptor, Options options, const Clock& clock)
    : clock_(clock), options_(std::move(options)), descriptor_(descriptor) {}

TextEvents::~TextEvents() {
  if (descriptor_ != STDERR_FILENO) ::close(descriptor_);
}

void TextEvents::emit(Level level, std::string_view name, std::vector<Field> fields) {
  if (level < options_.level_min) return;
  const std::string time = format_time(clock_.unix_milliseconds());
  const std::string line = options_.format == Format::kJson
                               ? json_line(time, level, name, fields)
                               : fmt::format("{} {} {}\n", time, level_name(level),
                                             one_line(format_event(name, fields)));
  std::lock_guard lock(mutex_);
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = ::write(descriptor_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace mesh::env
