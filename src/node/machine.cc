#include "node/machine.h"

#include <unistd.h>

#include <fstream>
#include <sstream>
#include <thread>

namespace mesh::node {

std::uint64_t available_memory() {
#ifdef __linux__
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string key;
    std::uint64_t kib = 0;
    if (fields >> key >> kib && key == "MemAvailable:") return kib * 1024;
  }
#endif
  // Elsewhere: half of what is installed, as nothing portable tells how much of it is free.
  const long pages = ::sysconf(_SC_PHYS_PAGES), page = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0
             ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page) / 2
             : 0;
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "node";
  const std::string full(name);
  return full.substr(0, full.find('.'));
}

int core_count() {
  const unsigned cores = std::thread::hardware_concurrency();
  return cores > 0 ? static_cast<int>(cores) : 1;
}

}  // namespace mesh::node
