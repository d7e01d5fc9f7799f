#pragma once
// Which cores and memory domains this machine has for this process, and how compute threads and
// large blocks of memory are laid over them. With hwloc (https://www.open-mpi.org/projects/hwloc)
// the domains are its NUMA nodes; without it the machine counts as one domain.

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace mesh::topology {

// A NUMA node and the cores next to it.
struct Domain {
  int number = 0;  // of the NUMA node, as the system counts
  int cores = 0;   // that this process may use; hardware threads of a core count once
  std::vector<int> processors{};  // hardware threads, as the system counts; ascending
};

struct Topology {
  std::vector<Domain> domains;  // at least one; every one has a core
  std::string source;           // what told: "hwloc 2.9.0" or "system"

  int cores() const;
};

// One domain with as many processors as the system reports, what else there may be unknown.
Domain whole_machine();
// Never fails: what cannot be read is whole_machine(). hwloc obeys HWLOC_SYNTHETIC, HWLOC_XMLFILE
// and the like.
Topology read_topology();
// read_topology(), asked once.
const Topology& this_machine();

// The processors' time that control groups grant this process, in processors; nothing when it is
// not limited. `proc` and `groups` are /proc and /sys/fs/cgroup (version 2: cpu.max of the group
// and all above it; version 1: cpu.cfs_quota_us).
std::optional<double> granted_processors(const std::filesystem::path& proc,
                                         const std::filesystem::path& groups);

// One thread for each core, since a second hardware thread adds nothing to a product that is bound
// by memory or by the multipliers; no more than control groups grant. At least 1.
int default_threads(const Topology& topology, std::optional<double> granted);
// The same of this machine, asked once.
int default_threads();

// For each of `threads` workers the domain whose processors it keeps to: as many for each core
// everywhere, neighbours together. Empty with a single domain: there the system places threads
// better, and several nodes share the machine.
std::vector<std::size_t> place_workers(const Topology& topology, int threads);

// Keeps the calling thread to the processors of a domain; false when the system refuses.
bool keep_to(const Domain& domain);

// Spreads the pages of a block that nobody has touched over all domains in turn, so that all memory
// channels serve every worker. Does nothing with a single domain; a refusal costs speed only.
void spread_pages(void* memory, std::size_t bytes);

}  // namespace mesh::topology
