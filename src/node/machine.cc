#include "node/machine.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <sstream>

#include "base/hash.h"

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

std::uint64_t peak_memory() {
#ifdef __linux__
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream fields(line);
    std::string key;
    std::uint64_t kib = 0;
    if (fields >> key >> kib && key == "VmHWM:") return kib * 1024;
  }
#endif
  return 0;
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0 || name[0] == '\0') return "node";
  const std::string full(name);
  return full.substr(0, full.find('.'));
}

std::uint64_t machine_number() {
  std::string text = host_name();
#ifdef __linux__
  std::ifstream boot("/proc/sys/kernel/random/boot_id");
  if (std::string id; std::getline(boot, id)) text = id;
  cpu_set_t processors;
  if (::sched_getaffinity(0, sizeof processors, &processors) == 0)
    text.append(reinterpret_cast<const char*>(&processors), sizeof processors);
#endif
  return std::max<std::uint64_t>(xxh3_64(text), 1);
}

std::vector<std::string> interface_addresses() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(first, ::freeifaddrs);
  std::vector<std::string> v4, v6;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_UP) == 0) continue;
    if ((at->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET6_ADDRSTRLEN] = {};
    if (at->ifa_addr->sa_family == AF_INET) {
      const auto* ip = reinterpret_cast<const sockaddr_in*>(at->ifa_addr);
      if ((ntohl(ip->sin_addr.s_addr) >> 16) == 0xA9FE) continue;  // 169.254.0.0/16
      if (::inet_ntop(AF_INET, &ip->sin_addr, text, sizeof text) != nullptr) v4.push_back(text);
    } else if (at->ifa_addr->sa_family == AF_INET6) {
      const auto* ip = reinterpret_cast<const sockaddr_in6*>(at->ifa_addr);
      if (IN6_IS_ADDR_LINKLOCAL(&ip->sin6_addr)) continue;
      if (::inet_ntop(AF_INET6, &ip->sin6_addr, text, sizeof text) != nullptr) v6.push_back(text);
    }
  }
  v4.insert(v4.end(), v6.begin(), v6.end());
  return v4;
}

}  // namespace mesh::node
