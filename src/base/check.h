#pragma once
// Assertions about our own code. On in every build; bytes from a peer, a file or a user must never
// reach one.

#include <fmt/core.h>

#include <string>
#include <string_view>

namespace mesh {

// Prints "file:line: check failed: condition (message)" to standard error and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               std::string_view message);

}  // namespace mesh

// MESH_CHECK(rows <= capacity, "{} rows, capacity {}", rows, capacity);
#define MESH_CHECK(condition, ...)                                                    \
  do {                                                                                \
    if (!(condition)) [[unlikely]]                                                    \
      ::mesh::check_failed(__FILE__, __LINE__, #condition, fmt::format(__VA_ARGS__)); \
  } while (false)

// For hot loops: compiled only when NDEBUG is not defined and MESH_DEBUG_CHECKS is.
#ifdef MESH_DEBUG_CHECKS
#define MESH_DCHECK(condition, ...) MESH_CHECK(condition, __VA_ARGS__)
#else
#define MESH_DCHECK(condition, ...) \
  do {                              \
  } while (false)
#endif
