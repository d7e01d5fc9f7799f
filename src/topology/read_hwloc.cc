// With hwloc 2.

#include <fmt/format.h>
#include <hwloc.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "topology/topology.h"

namespace mesh::topology {
namespace {

struct Closer {
  void operator()(hwloc_topology* topology) const { hwloc_topology_destroy(topology); }
};
using Machine = std::unique_ptr<hwloc_topology, Closer>;

Machine open_machine() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) return nullptr;
  Machine machine(topology);
  return hwloc_topology_load(topology) == 0 ? std::move(machine) : nullptr;
}

// What this process may use: a container or taskset may have taken processors away, and hwloc drops
// only those that the control group forbids.
bool usable_here(hwloc_topology_t machine, hwloc_const_cpuset_t set) {
  if (!hwloc_topology_is_thissystem(machine)) return true;
  hwloc_bitmap_t bound = hwloc_bitmap_alloc();
  const bool usable = hwloc_get_cpubind(machine, bound, HWLOC_CPUBIND_PROCESS) != 0 ||
                      hwloc_bitmap_intersects(bound, set);
  hwloc_bitmap_free(bound);
  return usable;
}

Domain read_domain(hwloc_topology_t machine, hwloc_obj_t node) {
  Domain domain{.number = static_cast<int>(node->os_index)};
  for (hwloc_obj_t core = nullptr; (core = hwloc_get_next_obj_inside_cpuset_by_type(
                                        machine, node->cpuset, HWLOC_OBJ_CORE, core)) != nullptr;)
    if (usable_here(machine, core->cpuset)) ++domain.cores;
  for (hwloc_obj_t unit = nullptr; (unit = hwloc_get_next_obj_inside_cpuset_by_type(
                                        machine, node->cpuset, HWLOC_OBJ_PU, unit)) != nullptr;)
    if (usable_here(machine, unit->cpuset))
      domain.processors.push_back(static_cast<int>(unit->os_index));
  std::sort(domain.processors.begin(), domain.processors.end());
  // Some virtual machines tell of processors and not of cores.
  if (domain.cores == 0) domain.cores = static_cast<int>(domain.processors.size());
  return domain;
}

}  // namespace

Topology read_topology() {
  Topology out{{},
               fmt::format("hwloc {}.{}.{}", HWLOC_API_VERSION >> 16, HWLOC_API_VERSION >> 8 & 0xff,
                           HWLOC_API_VERSION & 0xff)};
  const Machine machine = open_machine();
  for (hwloc_obj_t node = nullptr;
       machine && (node = hwloc_get_next_obj_by_type(machine.get(), HWLOC_OBJ_NUMANODE, node));) {
    Domain domain = read_domain(machine.get(), node);
    // Memory without processors (accelerators, far memory) computes nothing, and two kinds of
    // memory beside the same cores are one place to compute.
    const bool known =
        std::any_of(out.domains.begin(), out.domains.end(),
                    [&](const Domain& other) { return other.processors == domain.processors; });
    if (!domain.processors.empty() && !known) out.domains.push_back(std::move(domain));
  }
  if (out.domains.empty()) out.domains.push_back(whole_machine());
  return out;
}

void spread_pages(void* memory, std::size_t bytes) {
  if (this_machine().domains.size() < 2) return;
  static const Machine opened = open_machine();
  hwloc_topology_t machine = opened.get();
  if (machine == nullptr || !hwloc_topology_is_thissystem(machine)) return;
  (void)hwloc_set_area_membind(machine, memory, bytes, hwloc_topology_get_allowed_nodeset(machine),
                               HWLOC_MEMBIND_INTERLEAVE, HWLOC_MEMBIND_BYNODESET);
}

}  // namespace mesh::topology
