#include "api/http_counts.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace mesh::api {

std::string http_metrics_text(const HttpCounts& counts) {
  std::string out;
  const auto family = [&out](std::string_view name, std::string_view kind, std::string_view help) {
    out += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help, kind);
  };
  const auto single = [&](std::string_view name, std::string_view kind, std::string_view help,
                          std::uint64_t value) {
    family(name, kind, help);
    out += fmt::format("{} {}\n", name, value);
  };
  single("mesh_http_backpressure_total", "counter", "Times the reader of a stream fell behind.",
         counts.backpressure);
  single("mesh_http_connections", "gauge", "Open connections.", counts.connections_open);
  single("mesh_http_connections_total", "counter", "Connections accepted.", counts.connections);
  family("mesh_http_requests_total", "counter", "Requests answered, by class of status.");
  for (std::size_t i = 0; i < counts.answers.size(); ++i)
    out +=
        fmt::format("mesh_http_requests_total{{status=\"{}xx\"}} {}\n", i + 1, counts.answers[i]);
  single("mesh_http_slow_clients_total", "counter", "Streams ended because of a slow reader.",
         counts.slow_clients);
  return out;
}

void HttpTally::answered(int status) {
  answers[static_cast<std::size_t>(std::clamp(status / 100 - 1, 0, 4))].fetch_add(1);
}

HttpCounts HttpTally::read() const {
  HttpCounts out;
  out.connections_open = connections_open.load();
  out.connections = connections.load();
  for (std::size_t i = 0; i < answers.size(); ++i) out.answers[i] = answers[i].load();
  out.backpressure = backpressure.load();
  out.slow_clients = slow_clients.load();
  return out;
}

}  // namespace mesh::api
