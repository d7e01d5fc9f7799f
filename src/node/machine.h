#pragma once
// Facts about this machine, read from the operating system.

#include <cstdint>
#include <string>

namespace mesh::node {

// Memory that programs could still use without swapping; 0 when the system does not tell.
std::uint64_t available_memory();
std::string host_name();
int core_count();

}  // namespace mesh::node
