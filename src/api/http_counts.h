#pragma once
// What the HTTP server counts, for /metrics.

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

namespace mesh::api {

struct HttpCounts {
  std::uint64_t connections_open = 0, connections = 0;
  std::array<std::uint64_t, 5> answers{};  // by status class, 1xx first
  std::uint64_t backpressure = 0;          // streams whose reader fell behind, each time
  std::uint64_t slow_clients = 0;          // streams ended for it
};

// Prometheus text, exposition format 0.0.4: mesh_http_*.
std::string http_metrics_text(const HttpCounts& counts);

// The same, counted by several threads.
struct HttpTally {
  std::atomic<std::uint64_t> connections_open{0}, connections{0};
  std::array<std::atomic<std::uint64_t>, 5> answers{};
  std::atomic<std::uint64_t> backpressure{0}, slow_clients{0};

  void answered(int status);
  HttpCounts read() const;
};

}  // namespace mesh::api
