#pragma once
// Tensors that lie as runs of bytes in one or several files, whatever format says where.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "formats/byte_source.h"
#include "formats/tensor_source.h"

namespace mesh::formats {

// Where the bytes of one tensor lie: an index into the files, and the offset of the first byte.
struct Place {
  std::size_t file = 0;
  std::uint64_t offset = 0;
};

class PlacedSource final : public TensorSource {
 public:
  // `places` as `tensors`, which are ascending by name; whoever makes it has checked that each
  // tensor lies within its file.
  PlacedSource(std::vector<std::unique_ptr<ByteSource>> files,
               std::vector<tensor::TensorInfo> tensors, std::vector<Place> places)
      : files_(std::move(files)), tensors_(std::move(tensors)), places_(std::move(places)) {}

  const std::vector<tensor::TensorInfo>& tensors() const override { return tensors_; }
  std::uint64_t bytes_read() const override { return bytes_read_.load(std::memory_order_relaxed); }
  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override;

 private:
  const std::vector<std::unique_ptr<ByteSource>> files_;
  const std::vector<tensor::TensorInfo> tensors_;
  const std::vector<Place> places_;
  mutable std::atomic<std::uint64_t> bytes_read_{0};
};

}  // namespace mesh::formats
