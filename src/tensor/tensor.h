#pragma once
// Tensors as they lie in a checkpoint: a name, a type, a shape and borrowed or shared bytes in host
// memory.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace mesh::tensor {

using Shape = std::vector<std::int64_t>;

std::int64_t element_count(const Shape& shape);  // 1 for a scalar
std::string shape_text(const Shape& shape);      // "[1024, 64]"

// What a checkpoint says of one tensor.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  // Rows of a quantised type are whole blocks: the last extent is a multiple of block_elements().
  std::uint64_t bytes() const {
    return static_cast<std::uint64_t>(element_count(shape)) / block_elements(dtype) *
           block_bytes(dtype);
  }
  std::size_t row_bytes() const { return tensor::row_bytes(dtype, shape.back()); }  // rank 1 and up
};

// The bytes of one tensor, row-major, little-endian. `owner` keeps them alive; without it they are
// borrowed.
struct HostTensor {
  TensorInfo info;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

}  // namespace mesh::tensor
