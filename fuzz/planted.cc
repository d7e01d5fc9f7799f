// Not a parser of the project: reads one byte behind its input when the input names it. run.sh
// --planted demands that the fuzzer finds it, so that a run without findings means something.

#include <algorithm>
#include <memory>

#include "target.h"
#include "wire/frame.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  (void)mesh::wire::decode_frame(mesh::fuzz::bytes_of(data, size)).ok();
  std::uint32_t magic = 0;
  for (std::size_t i = 0; i < 4 && i < size; ++i) magic = magic << 8 | data[i];
  if (magic != 0x6D657368) return 0;  // "mesh"
  const auto copy = std::make_unique<std::uint8_t[]>(size);
  std::copy(data, data + size, copy.get());
  volatile std::uint8_t behind = copy[size];
  (void)behind;
  return 0;
}
