#pragma once
// Facts about this machine, read from the operating system.

#include <cstdint>
#include <string>
#include <vector>

namespace mesh::node {

// Memory that programs could still use without swapping; 0 when the system does not tell.
std::uint64_t available_memory();
// Most resident memory of this process so far; 0 when the system does not tell.
std::uint64_t peak_memory();
std::string host_name();
// The same for all processes that this boot of the machine runs on the same processors, and for no
// others; never 0.
std::uint64_t machine_number();
// Addresses of this machine that others may reach: interfaces that are up, without loopback and
// link-local ones; IPv4 before IPv6. Empty when there is none.
std::vector<std::string> interface_addresses();

}  // namespace mesh::node
