// Input: an index file, NUL, the one shard "101". Both are memory files with fixed descriptors, so
// that the paths of a real index lead to them and nothing is written to a disk.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "formats/safetensors.h"
#include "target.h"

namespace {

constexpr int kIndex = 100;
constexpr int kShard = 101;

int make_memory_file(int descriptor) {
  const int made = memfd_create("fuzz", 0);
  MESH_CHECK(made >= 0 && dup2(made, descriptor) == descriptor, "no memory file {}", descriptor);
  close(made);
  return descriptor;
}

void fill(int descriptor, std::string_view content) {
  const bool done =
      ftruncate(descriptor, 0) == 0 &&
      pwrite(descriptor, content.data(), content.size(), 0) == static_cast<ssize_t>(content.size());
  MESH_CHECK(done, "memory file {} cannot be written", descriptor);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  [[maybe_unused]] static const std::array<int, 2> files = {make_memory_file(kIndex),
                                                            make_memory_file(kShard)};
  const auto [index, shard] = mesh::fuzz::two_parts(mesh::fuzz::text_of(data, size));
  fill(kIndex, index);
  fill(kShard, shard);
  const auto source = mesh::formats::open_safetensors_index("/proc/self/fd/100");
  if (!source.ok()) return 0;
  for (const auto& info : (*source)->tensors()) {
    std::array<std::byte, 16> out{};
    const std::size_t count = std::min<std::uint64_t>(out.size(), info.bytes());
    const bool wrong =
        mesh::fuzz::planted(info.shape.size() == 2 && info.shape[0] == 0 && info.shape[1] > 5);
    MESH_CHECK((*source)->read_part(wrong ? "" : info.name, 0, std::span(out).first(count)).ok(),
               "tensor {} of an accepted index cannot be read", info.name);
  }
  return 0;
}
