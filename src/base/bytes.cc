#include "base/bytes.h"

#include <new>

namespace mesh {
namespace {
constexpr std::align_val_t kAlignment{64};
}

void Buffer::Free::operator()(std::byte* p) const {
  ::operator delete[](p, kAlignment);
}

Buffer::Buffer(std::size_t size) : size_(size) {
  if (size > 0) data_.reset(static_cast<std::byte*>(::operator new[](size, kAlignment)));
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  data_ = std::move(other.data_);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

Buffer Buffer::copy_of(std::span<const std::byte> bytes) {
  Buffer buffer(bytes.size());
  if (!bytes.empty()) std::memcpy(buffer.data(), bytes.data(), bytes.size());
  return buffer;
}

Buffer Buffer::copy_of(std::string_view text) {
  return copy_of(as_bytes(text));
}

Error ByteReader::short_read(std::size_t wanted) const {
  return Error(Code::kCorrupt,
               fmt::format("{} bytes wanted at offset {}, {} left", wanted, at_, remaining()));
}

std::string to_hex(std::span<const std::byte> bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (std::byte b : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(b));
  return text;
}

std::string to_hex(std::uint64_t value) {
  return fmt::format("{:016x}", value);
}

}  // namespace mesh
