// Input: a GGUF file; once as it is, and once more without its last two bytes, which then say how
// many zeros follow: few enough that filling them is not what the time goes to.

#include <algorithm>
#include <cstring>
#include <string>

#include "formats/gguf.h"
#include "target.h"

namespace {

class PaddedSource final : public mesh::formats::ByteSource {
 public:
  PaddedSource(std::span<const std::byte> bytes, std::uint64_t more)
      : bytes_(bytes), size_(bytes.size() + more) {}
  std::uint64_t size() const override { return size_; }
  const std::string& name() const override { return name_; }
  mesh::Result<void> read(std::uint64_t offset, std::span<std::byte> out) const override {
    MESH_CHECK(offset <= size_ && out.size() <= size_ - offset, "{} bytes read at {} of {}",
               out.size(), offset, size_);
    std::fill(out.begin(), out.end(), std::byte{0});
    if (offset < bytes_.size() && !out.empty())
      std::memcpy(out.data(), bytes_.data() + offset,
                  std::min<std::size_t>(out.size(), bytes_.size() - offset));
    return {};
  }

 private:
  const std::span<const std::byte> bytes_;
  const std::uint64_t size_;
  const std::string name_ = "fuzz";
};

void check(std::span<const std::byte> bytes, std::uint64_t more) {
  const PaddedSource file(bytes, more);
  const auto header = mesh::formats::read_gguf_header(file);
  if (!header.ok()) {
    MESH_CHECK(header.error().message.size() < 1000, "an error of {} bytes",
               header.error().message.size());
    return;
  }
  std::uint64_t total = 0;
  const std::string* before = nullptr;
  for (const auto& [info, offset] : header->tensors) {
    const auto needed = mesh::formats::checked_bytes(info.shape, info.dtype);
    MESH_CHECK(needed.has_value() && offset >= header->data_start && offset <= file.size() &&
                   *needed <= file.size() - offset && offset % header->alignment == 0,
               "tensor {} lies outside of the file", info.name);
    MESH_CHECK(before == nullptr || *before < info.name, "tensor {} out of order", info.name);
    before = &info.name;
    total += *needed;
  }
  if (mesh::fuzz::planted(header->tensors.size() == 1 && !header->metadata.values.empty()))
    total = ~0ull;
  MESH_CHECK(total <= file.size(), "{} bytes of tensors in {}", total, file.size());
  for (const auto& [key, value] : header->metadata.values)
    MESH_CHECK(!key.empty() && header->metadata.find(key) == &value, "key {} is not found", key);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = mesh::fuzz::bytes_of(data, size);
  check(input, 0);
  if (size < 2) return 0;
  check(input.first(size - 2), static_cast<std::uint64_t>(data[size - 2]) << 8 | data[size - 1]);
  return 0;
}
