// Without hwloc.

#include <algorithm>
#include <thread>
#include <utility>

#include "topology/topology.h"

namespace mesh::topology {

Topology read_topology() {
  const int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  Domain all{.cores = count};
  for (int i = 0; i < count; ++i) all.processors.push_back(i);
  return {{std::move(all)}, "system"};
}

void spread_pages(void*, std::size_t) {}

}  // namespace mesh::topology
