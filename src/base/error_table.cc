#include "base/error_table.h"

namespace mesh {
namespace {

struct Row {
  Code code;
  std::string_view name;
  int http;
  std::uint32_t wire;
};

constexpr Row kRows[] = {
    {Code::kInvalidArgument, "invalid_argument", 400, 1},
    {Code::kNotFound, "not_found", 404, 2},
    {Code::kUnavailable, "unavailable", 503, 3},
    {Code::kResourceExhausted, "resource_exhausted", 429, 4},
    {Code::kDeadlineExceeded, "deadline_exceeded", 504, 5},
    {Code::kCancelled, "cancelled", 499, 6},
    {Code::kCorrupt, "corrupt", 500, 7},
    {Code::kUnsupported, "unsupported", 400, 8},
    {Code::kPermissionDenied, "permission_denied", 403, 9},
    {Code::kInternal, "internal", 500, 10},
};

const Row& row_of(Code code) {
  for (const Row& row : kRows)
    if (row.code == code) return row;
  check_failed(__FILE__, __LINE__, "code in table", "error code without a row");
}

}  // namespace

std::string_view code_name(Code code) {
  return row_of(code).name;
}
int http_status(Code code) {
  return row_of(code).http;
}
std::uint32_t wire_code(Code code) {
  return row_of(code).wire;
}

Code code_from_wire(std::uint32_t number) {
  for (const Row& row : kRows)
    if (row.wire == number) return row.code;
  return Code::kInternal;
}

}  // namespace mesh
