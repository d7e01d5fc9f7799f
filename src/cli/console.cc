#include "cli/console.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "cli/environment.h"

namespace mesh::cli {

std::size_t shown_width(std::string_view text) {
  std::size_t columns = 0;
  for (const char c : text) columns += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1u : 0u;
  return columns;
}

std::string fitted(const std::string& text, std::size_t width) {
  const std::size_t columns = shown_width(text);
  if (columns <= width) return text + std::string(width - columns, ' ');
  if (width == 0) return "";
  std::string out;
  std::size_t taken = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80 && ++taken == width) break;
    out += text[i];
  }
  return out + "…";
}

std::string bar(double share, std::size_t width) {
  const double cells = std::clamp(share, 0.0, 1.0) * static_cast<double>(width);
  auto full = static_cast<std::size_t>(std::lround(cells));
  if (share > 0 && full == 0) full = 1;  // something is there
  std::string out;
  for (std::size_t i = 0; i < width; ++i) out += i < full ? "█" : "░";
  return out;
}

std::string shown_bytes(std::uint64_t bytes) {
  const double value = static_cast<double>(bytes);
  return value >= 1e9 ? fmt::format("{:.1f} GB", value / 1e9)
                      : fmt::format("{:.1f} MB", value / 1e6);
}

bool colour_wanted(int descriptor) {
  return ::isatty(descriptor) != 0 && environment("NO_COLOR").empty() &&
         environment("TERM") != "dumb";
}

std::string progress_text(std::uint64_t done, std::uint64_t total, double seconds) {
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0;
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const auto rest =
      rate > 0 && total > done
          ? static_cast<std::uint64_t>(std::ceil(static_cast<double>(total - done) / rate))
          : 0;
  return fmt::format("  reading weights  {}  {} of {}  {:.0f} MB/s  eta {}:{:02}", bar(share, 16),
                     shown_bytes(done), shown_bytes(total), rate / 1e6, rest / 60, rest % 60);
}

std::optional<std::string> LoadProgress::update(Instant now, std::uint64_t done,
                                                std::uint64_t total) {
  if (!started_.has_value() || done < done_) {
    started_ = now;
    shown_.reset();
  }
  done_ = done;
  const Duration since = now - shown_.value_or(*started_);
  const Duration pause = !shown_.has_value() ? seconds(1)
                         : terminal_         ? milliseconds(100)
                                             : seconds(5);
  if (since < pause || done >= total) return std::nullopt;
  shown_ = now;
  return progress_text(done, total, to_seconds(now - *started_));
}

std::string request_line(std::string_view event, const std::vector<Field>& fields) {
  if (event != "request.done") return "";
  const auto field = [&](std::string_view key) -> std::string {
    for (const Field& f : fields)
      if (f.key == key) return f.value;
    return "";
  };
  // Numbers with more digits than anyone reads.
  const auto rounded = [](const std::string& text) {
    const std::size_t point = text.find('.');
    if (text.empty() || text.find_first_not_of("0123456789.") != std::string::npos) return text;
    return point == std::string::npos ? text : fmt::format("{:.0f}", std::stod(text));
  };
  std::string out = "· request " + field("id");
  const std::string cached = field("cached");
  if (const std::string prompt = field("prompt"); !prompt.empty())
    out += fmt::format("  prompt {}{}", prompt,
                       cached.empty() || cached == "0" ? "" : fmt::format(" ({} cached)", cached));
  if (const std::string first = field("ttft_ms"); !first.empty())
    out += fmt::format("  first token {} ms", rounded(first));
  if (const std::string tokens = field("tokens"); !tokens.empty())
    out += fmt::format("  {} tokens", tokens);
  if (const std::string rate = field("tokens_per_s"); !rate.empty())
    out += fmt::format(", {} tok/s", rounded(rate));
  if (const std::string finish = field("finish"); !finish.empty()) out += "  " + finish;
  if (const std::string why = field("why"); !why.empty()) out += " (" + why + ")";
  return out;
}

Console::Console(bool quiet) : quiet_(quiet), terminal_(::isatty(STDOUT_FILENO) != 0) {}

void Console::clear() {
  if (progress_shown_) std::fputs("\r\x1b[K", stdout);
  progress_shown_ = false;
}

void Console::print(const std::string& text) {
  clear();
  std::fputs((text + "\n").c_str(), stdout);
  std::fflush(stdout);
}

void Console::line(const std::string& text) {
  if (quiet_) return;
  const std::lock_guard lock(mutex_);
  print(text);
}

void Console::important(const std::string& text) {
  const std::lock_guard lock(mutex_);
  print(text);
}

void Console::progress(const std::string& text) {
  if (quiet_) return;
  const std::lock_guard lock(mutex_);
  if (!terminal_) return print(text);
  std::fputs(("\r" + text + "\x1b[K").c_str(), stdout);
  std::fflush(stdout);
  progress_shown_ = true;
}

void Console::end_progress() {
  const std::lock_guard lock(mutex_);
  clear();
  std::fflush(stdout);
}

}  // namespace mesh::cli
