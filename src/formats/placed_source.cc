#include "formats/placed_source.h"

namespace mesh::formats {

Result<void> PlacedSource::read_part(const std::string& name, std::uint64_t offset,
                                     std::span<std::byte> out) const {
  MESH_ASSIGN_OR_RETURN(const tensor::TensorInfo* info,
                        check_part(*this, name, offset, out.size()));
  const Place& place = places_[static_cast<std::size_t>(info - tensors_.data())];
  auto status = files_[place.file]->read(place.offset + offset, out);
  if (!status.ok()) return status.error().with_context("tensor " + name);
  bytes_read_.fetch_add(out.size(), std::memory_order_relaxed);
  return {};
}

}  // namespace mesh::formats
