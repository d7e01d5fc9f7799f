#pragma once
// Named tensors that can be read one by one: a checkpoint on disk, in memory, or generated.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tensor/tensor.h"

namespace mesh::formats {

// Immutable; every call may come from any thread. Opening one costs the tables only, no tensor is
// read.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // Ascending by name, without repeats. Every bytes() is below 2^63.
  virtual const std::vector<tensor::TensorInfo>& tensors() const = 0;
  // Fills `out` with the bytes of the tensor from `offset` on; nothing else is read.
  // Errors: not_found, invalid_argument beyond the tensor's end, and those of the bytes' source.
  virtual Result<void> read_part(const std::string& name, std::uint64_t offset,
                                 std::span<std::byte> out) const = 0;
  // Bytes of tensors handed out so far, tables and headers not counted.
  virtual std::uint64_t bytes_read() const = 0;

  // Null if there is none of that name; valid as long as the source.
  const tensor::TensorInfo* find(std::string_view name) const;
  // The whole tensor in memory of its own. Errors: as read_part().
  Result<tensor::HostTensor> read(const std::string& name) const;
};

// Checks a read_part() call against the table: for implementations.
Result<const tensor::TensorInfo*> check_part(const TensorSource& source, const std::string& name,
                                             std::uint64_t offset, std::uint64_t count);

// Bytes of a tensor of that shape; nullopt if an extent is negative, the count reaches 2^63, or
// rows are not whole blocks of a quantised type.
std::optional<std::uint64_t> checked_bytes(const tensor::Shape& shape, tensor::DType dtype);

}  // namespace mesh::formats
