#include "env/system_random.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"

namespace mesh::env {

void SystemRandom::fill(std::span<std::byte> out) {
  constexpr std::size_t kOneCall = 256;  // getentropy refuses more
  while (!out.empty()) {
    const std::size_t count = std::min(out.size(), kOneCall);
    const int result = ::getentropy(out.data(), count);
    MESH_CHECK(result == 0, "getentropy failed with errno {}", errno);
    out = out.subspan(count);
  }
}

}  // namespace mesh::env
