#pragma once
// Loops that do nothing but read memory, or nothing but multiply bytes: what a processor can do at
// most.

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace mesh::bench {

struct MachinePeaks {
  const char* isa;
  const char* product;  // the instruction that counts
  bool (*usable)();
  // Sums all bytes as words, one ascending stream; `data` aligned to 64 bytes.
  void (*read)(const char* data, std::size_t bytes);
  // `rounds` of products on all accumulators.
  void (*multiply)(std::int64_t rounds);
  double operations;  // of a round, 2 per multiply-accumulate
};

// Those of an instruction set, which may not be usable; "": the best that is. Null for an unknown
// one.
const MachinePeaks* machine_peaks(std::string_view isa);

}  // namespace mesh::bench
