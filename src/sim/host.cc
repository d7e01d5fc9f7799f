#include "sim/host.h"

namespace mesh::sim {
namespace {
// Wall time at the start of every run.
constexpr std::int64_t kUnixStart = 1'700'000'000'000;
}  // namespace

Host::Host(World& world, std::string name, std::uint64_t seed, std::int64_t skew_ms)
    : world_(world), name_(std::move(name)), random_(seed), skew_ms_(skew_ms) {}

Host::~Host() {
  *alive_ = false;
}

std::int64_t Host::unix_milliseconds() const {
  return kUnixStart + skew_ms_ + world_.now().time_since_epoch() / milliseconds(1);
}

env::TimerHandle Host::after(Duration delay, std::function<void()> callback) {
  auto armed = std::make_shared<bool>(true);
  later(delay, [armed, callback = std::move(callback)] {
    if (!*armed) return;
    *armed = false;
    callback();
  });
  return env::TimerHandle(std::move(armed));
}

void Host::post(std::function<void()> task) {
  later(Duration{}, std::move(task));
}

void Host::later(Duration delay, std::function<void()> callback) {
  world_.after(delay, [alive = alive_, callback = std::move(callback)] {
    if (*alive) callback();
  });
}

void Host::fill(std::span<std::byte> out) {
  for (std::byte& byte : out) byte = static_cast<std::byte>(random_.next());
}

void Host::emit(Level level, std::string_view name, std::vector<Field> fields) {
  if (level == Level::kError) ++errors_;
  const std::string line = fmt::format("{:.3f}s {} {}", to_seconds(now().time_since_epoch()),
                                       level_name(level), format_event(name, fields));
  world_.trace(line);
  recent_.push_back(name_ + " " + line);
  if (recent_.size() > kKeptEvents) recent_.pop_front();
}

}  // namespace mesh::sim
