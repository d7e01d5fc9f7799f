#include "tensor/dtype.h"

#include "base/check.h"

namespace mesh::tensor {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  std::size_t elements;  // of a block
  std::size_t bytes;     // of a block
};

constexpr Row kRows[] = {
    {DType::kF64, "F64", 1, 8},         {DType::kF32, "F32", 1, 4},
    {DType::kF16, "F16", 1, 2},         {DType::kBF16, "BF16", 1, 2},
    {DType::kI64, "I64", 1, 8},         {DType::kI32, "I32", 1, 4},
    {DType::kI16, "I16", 1, 2},         {DType::kI8, "I8", 1, 1},
    {DType::kU8, "U8", 1, 1},           {DType::kBool, "BOOL", 1, 1},
    {DType::kF8E4M3, "F8_E4M3", 1, 1},  {DType::kF8E5M2, "F8_E5M2", 1, 1},
    {DType::kQ4_0, "Q4_0", 32, 18},     {DType::kQ4_1, "Q4_1", 32, 20},
    {DType::kQ5_0, "Q5_0", 32, 22},     {DType::kQ5_1, "Q5_1", 32, 24},
    {DType::kQ8_0, "Q8_0", 32, 34},     {DType::kQ2_K, "Q2_K", 256, 84},
    {DType::kQ3_K, "Q3_K", 256, 110},   {DType::kQ4_K, "Q4_K", 256, 144},
    {DType::kQ5_K, "Q5_K", 256, 176},   {DType::kQ6_K, "Q6_K", 256, 210},
    {DType::kIQ4_NL, "IQ4_NL", 32, 18}, {DType::kIQ4_XS, "IQ4_XS", 256, 136},
    {DType::kMXFP4, "MXFP4", 32, 17},
};

const Row& row_of(DType dtype) {
  for (const Row& row : kRows)
    if (row.dtype == dtype) return row;
  check_failed(__FILE__, __LINE__, "dtype in table", "element type without a row");
}

}  // namespace

std::size_t dtype_bytes(DType dtype) {
  const Row& row = row_of(dtype);
  MESH_CHECK(row.elements == 1, "{} has no bytes per element", row.name);
  return row.bytes;
}
std::string_view dtype_name(DType dtype) {
  return row_of(dtype).name;
}
std::size_t block_elements(DType dtype) {
  return row_of(dtype).elements;
}
std::size_t block_bytes(DType dtype) {
  return row_of(dtype).bytes;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const Row& row : kRows)
    if (row.name == name) return row.dtype;
  return std::nullopt;
}

}  // namespace mesh::tensor
