// toolkit-mesh status --watch: the mesh anew every second.

#include "cli/cmd_watch.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>

#include "cli/console.h"
#include "cli/http_client.h"
#include "cli/watch_view.h"

namespace mesh::cli {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kRefreshMs = 1000;
constexpr int kPollDeadlineMs = 3000;    // of one question to the node
constexpr std::size_t kRatesKept = 120;  // two minutes

volatile std::sig_atomic_t watch_signal = 0;

// Keys one by one without echo, another screen, no cursor; all of it undone at the end.
class Screen {
 public:
  explicit Screen(bool on) : on_(on) {
    if (!on_) return;
    keys_ = ::tcgetattr(STDIN_FILENO, &before_) == 0;
    if (keys_) {
      termios raw = before_;
      raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
      ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    }
    std::fputs("\x1b[?1049h\x1b[?25l", stdout);
  }
  ~Screen() {
    if (!on_) return;
    std::fputs("\x1b[?25h\x1b[?1049l", stdout);
    std::fflush(stdout);
    if (keys_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;
  bool keys() const { return keys_; }

  void show(const std::vector<std::string>& lines) const {
    std::string out = on_ ? "\x1b[H" : "";
    for (const std::string& line : lines) out += line + (on_ ? "\x1b[K\r\n" : "\n");
    out += on_ ? "\x1b[J" : "\n";
    std::fputs(out.c_str(), stdout);
    std::fflush(stdout);
  }

 private:
  const bool on_;
  bool keys_ = false;
  termios before_{};
};

std::size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20) return size.ws_col;
  return 80;
}

// Waits for q, a signal or the next turn; true to leave.
bool leave(bool keys, SteadyClock::time_point until) {
  while (watch_signal == 0) {
    const auto rest =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - SteadyClock::now()).count();
    if (rest <= 0) return false;
    pollfd input{STDIN_FILENO, POLLIN, 0};
    if (::poll(&input, keys ? 1 : 0, static_cast<int>(rest)) <= 0) continue;
    char key = 0;
    if (::read(STDIN_FILENO, &key, 1) <= 0) keys = false;
    if (key == 'q' || key == 'Q' || key == 4) return true;
  }
  return true;
}

void ask(const TargetOptions& target, WatchFrame& frame, SteadyClock::time_point& lost_since) {
  const auto failed = [&](const std::string& why) {
    if (frame.lost.empty()) lost_since = SteadyClock::now();
    frame.lost = why;
    frame.lost_s = static_cast<std::uint64_t>(
        std::chrono::duration_cast<std::chrono::seconds>(SteadyClock::now() - lost_since).count());
  };
  const Result<HttpReply> reply =
      http_request(target, {.path = "/mesh/status", .go_on = [] { return watch_signal == 0; }});
  if (!reply.ok()) return failed(reply.error().message);
  if (reply->status != 200) return failed(error_sentence(*reply));
  Result<WatchMesh> mesh = parse_watch_mesh(reply->body);
  if (!mesh.ok()) return failed(mesh.error().message);
  frame.lost.clear();
  frame.mesh = std::move(*mesh);
  frame.rates.push_back(frame.mesh->tokens_per_s());
  if (frame.rates.size() > kRatesKept) frame.rates.erase(frame.rates.begin());
}

}  // namespace

int run_watch(const StatusOptions& options) {
  struct sigaction action {};
  action.sa_handler = [](int number) { watch_signal = number; };
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  TargetOptions target = options.target;
  target.deadline_ms = kPollDeadlineMs;
  WatchFrame frame;
  SteadyClock::time_point lost_since;
  const bool terminal = ::isatty(STDOUT_FILENO) != 0;
  ask(target, frame, lost_since);
  if (!frame.mesh.has_value() && watch_signal == 0) {  // it was never there
    fmt::print(stderr, "✗ {}\n", frame.lost);
    return kUnreachable;
  }
  {
    const Screen screen(terminal);
    frame.keys = screen.keys() ? "q quit" : "";
    frame.colour = colour_wanted(STDOUT_FILENO);
    for (auto next = SteadyClock::now();; ask(target, frame, lost_since)) {
      frame.width = terminal ? terminal_width() : 120;
      screen.show(render_watch(frame));
      if (std::ferror(stdout) != 0) return kFailed;
      next = std::max(next + std::chrono::milliseconds(kRefreshMs), SteadyClock::now());
      if (leave(screen.keys(), next)) break;
    }
  }
  return watch_signal == SIGINT ? kInterrupted : kDone;
}

}  // namespace mesh::cli
