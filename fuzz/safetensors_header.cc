// Input: the first bytes of a .safetensors file; the size of the file is what the header says and,
// once more, what was given.

#include "formats/safetensors.h"

#include "target.h"

namespace {

void check(std::span<const std::byte> prefix, std::uint64_t file_size) {
  auto header = mesh::formats::parse_safetensors_header(prefix, file_size, "fuzz");
  if (!header.ok()) return;
  std::uint64_t covered = header->data_start;
  for (auto& entry : header->entries) {
    if (mesh::fuzz::planted(entry.info.shape.size() == 2 && entry.info.shape[0] == 0 &&
                            entry.info.shape[1] > 5))
      entry.file_offset += file_size;
    const auto bytes = mesh::formats::checked_bytes(entry.info.shape, entry.info.dtype);
    MESH_CHECK(bytes.has_value() && entry.file_offset >= header->data_start &&
                   entry.file_offset + *bytes <= file_size,
               "tensor {} lies outside of the file", entry.info.name);
    covered += *bytes;
  }
  MESH_CHECK(covered == file_size, "{} bytes covered of {}", covered, file_size);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = mesh::fuzz::bytes_of(data, size);
  check(input, size);
  // The last four bytes as the amount of data behind the header.
  if (size < 12) return 0;
  std::uint32_t more = 0;
  for (std::size_t i = size - 4; i < size; ++i) more = more << 8 | data[i];
  check(input.first(size - 4), size - 4 + more);
  return 0;
}
