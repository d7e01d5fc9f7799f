#pragma once
// Checks and exact conversions of checkpoint tensors, shared by the host backends. Pure.

#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "ops/ops.h"

namespace mesh::ops {

// Shape of stacked sources: out is their sum.
struct StackedShape {
  std::int64_t in = 0;
  std::int64_t out = 0;
};

// Errors: unsupported (type that is neither f32, bf16, f16 nor quantised; names the tensor),
// invalid_argument (rank, extents that differ, rows that are not whole blocks, bytes that do not
// fit the shape, nothing to stack).
Result<StackedShape> check_sources(std::span<const LinearSource> sources);
// Vectors are f32, bf16 or f16. size -1: any.
Result<void> check_vector(const HostTensor& source, std::int64_t size);

// Errors: unsupported (type), invalid_argument (an extent that is not positive, a matrix that is
// not of the shape), naming the tensor.
Result<void> check_experts(const ExpertsShape& shape);
Result<void> check_expert(const ExpertSource& source, const ExpertsShape& shape);

// Host memory that a matrix is read through, where its rows allow: small enough for the caches of
// a core, large enough that a disk and a pool of threads have work.
inline constexpr std::size_t kReadWindowBytes = std::size_t{1} << 20;

// Rows of a window: whole multiples of `unit`, at least one, and not more than the matrix needs.
std::int64_t window_rows(std::size_t row_bytes, std::int64_t unit, std::int64_t rows);

// Rows [first, first + out.size() / row_bytes) of a matrix, wherever it lies; shows nothing.
Result<void> read_rows(const MatrixSource& source, std::int64_t first, std::span<std::byte> out);
// Reads and shows all rows in ascending order through a window; `use` gets them as a matrix of
// fewer rows, from row `first` on, valid within the call. Errors: those of reading.
using UseRows = std::function<void(std::int64_t first, const HostTensor& rows)>;
Result<void> for_windows(const MatrixSource& source, const UseRows& use);

// Elements [first, first + count) as exact f32; both whole blocks of a quantised type.
void widen(const HostTensor& source, std::int64_t first, std::int64_t count, float* out);

// The stacked bias, empty when no source has one. A source without a bias gets -0: x + -0 is x for
// every x.
std::vector<float> stacked_bias(std::span<const LinearSource> sources, std::int64_t out);

}  // namespace mesh::ops
