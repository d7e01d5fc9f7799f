#include "topology/topology.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>

#ifdef __linux__
#include <sched.h>
#endif

namespace mesh::topology {
namespace {

// "MAX PERIOD" in microseconds, MAX may be the word "max".
std::optional<double> read_cpu_max(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return std::nullopt;
  std::istringstream number(quota);
  double value = 0;
  if (!(number >> value) || value <= 0) return std::nullopt;
  return value / period;
}

std::optional<double> read_cfs_quota(const std::filesystem::path& folder) {
  std::ifstream quota_file(folder / "cpu.cfs_quota_us");
  std::ifstream period_file(folder / "cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_file >> quota) || !(period_file >> period) || quota <= 0 || period <= 0)
    return std::nullopt;
  return quota / period;
}

std::optional<double> least(std::optional<double> a, std::optional<double> b) {
  if (!a) return b;
  return b ? std::min(*a, *b) : a;
}

// `path` is a group as /proc/self/cgroup names it: "/a/b". Inside a container the folder may be
// missing, and the root of what is mounted stands for it.
template <typename Read>
std::optional<double> tightest(const std::filesystem::path& root, const std::string& path,
                               Read read) {
  std::optional<double> granted = read(root);
  std::filesystem::path at = root;
  for (const auto& part : std::filesystem::path(path).relative_path())
    granted = least(granted, read(at /= part));
  return granted;
}

}  // namespace

int Topology::cores() const {
  int sum = 0;
  for (const Domain& domain : domains) sum += domain.cores;
  return sum;
}

Domain whole_machine() {
  Domain all{.cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()))};
  for (int i = 0; i < all.cores; ++i) all.processors.push_back(i);
  return all;
}

const Topology& this_machine() {
  static const Topology machine = read_topology();
  return machine;
}

std::optional<double> granted_processors(const std::filesystem::path& proc,
                                         const std::filesystem::path& groups) {
  std::ifstream file(proc / "self" / "cgroup");
  std::optional<double> granted;
  // "0::/PATH" is version 2, "4:cpu,cpuacct:/PATH" version 1.
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty())
      granted = least(granted, tightest(groups, path, [](const std::filesystem::path& folder) {
                        return read_cpu_max(folder / "cpu.max");
                      }));
    else if (("," + controllers + ",").find(",cpu,") != std::string::npos)
      granted = least(granted, tightest(groups / "cpu", path, read_cfs_quota));
  }
  return granted;
}

int default_threads(const Topology& topology, std::optional<double> granted) {
  // A thread more than granted would be stopped in the middle of every period, and the others wait.
  int threads = topology.cores();
  if (granted && *granted < threads) threads = static_cast<int>(std::floor(*granted));
  return std::max(threads, 1);
}

int default_threads() {
  static const int threads =
      default_threads(this_machine(), granted_processors("/proc", "/sys/fs/cgroup"));
  return threads;
}

std::vector<std::size_t> place_workers(const Topology& topology, int threads) {
  if (topology.domains.size() < 2) return {};
  std::vector<std::size_t> placed;
  const int cores = topology.cores();
  int cores_before = 0;
  for (std::size_t i = 0; i < topology.domains.size(); ++i) {
    cores_before += topology.domains[i].cores;
    // Rounded on the running sum: the shares add up to `threads`.
    const auto until = (static_cast<long>(threads) * cores_before + cores / 2) / cores;
    while (static_cast<long>(placed.size()) < until) placed.push_back(i);
  }
  return placed;
}

bool keep_to(const Domain& domain) {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int processor : domain.processors) {
    if (processor < 0 || processor >= CPU_SETSIZE) return false;
    CPU_SET(processor, &set);
  }
  return sched_setaffinity(0, sizeof set, &set) == 0;
#else
  (void)domain;  // macOS has one domain and no such call
  return false;
#endif
}

}  // namespace mesh::topology
