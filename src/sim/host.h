#pragma once
// The Env of one simulated node: clock, timers, loop, randomness and events on virtual time. A
// crash destroys the Host, and with it every timer and task of its node.

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/events.h"
#include "env/env.h"
#include "sim/world.h"

namespace mesh::sim {

class Host : public env::Clock,
             public env::Timers,
             public env::Loop,
             public env::Random,
             public mesh::Events {
 public:
  // `skew_ms` is added to wall time; `seed` to what Random draws.
  Host(World& world, std::string name, std::uint64_t seed, std::int64_t skew_ms = 0);
  ~Host() override;
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  Instant now() const override { return world_.now(); }
  std::int64_t unix_milliseconds() const override;
  [[nodiscard]] env::TimerHandle after(Duration delay, std::function<void()> callback) override;
  void post(std::function<void()> task) override;
  void fill(std::span<std::byte> out) override;
  void emit(Level level, std::string_view name, std::vector<Field> fields) override;

  World& world() { return world_; }
  const std::string& name() const { return name_; }
  // The last kKeptEvents events, "1.250s name key=value", and how many were errors.
  const std::deque<std::string>& recent() const { return recent_; }
  std::size_t errors() const { return errors_; }
  metrics::Registry& metrics() { return metrics_; }
  // Runs `callback` on a later turn unless this Host has gone by then.
  void later(Duration delay, std::function<void()> callback);

  static constexpr std::size_t kKeptEvents = 200;

 private:
  World& world_;
  std::string name_;
  Prng random_;
  std::int64_t skew_ms_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::deque<std::string> recent_;
  std::size_t errors_ = 0;
  metrics::Registry metrics_;
};

}  // namespace mesh::sim
