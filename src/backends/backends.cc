#include "backends/backends.h"

#include "backends/cpu/cpu_backend.h"
#include "backends/ref/ref_backend.h"

namespace mesh::backends {
namespace {

struct Row {
  std::string_view name;
  Result<std::unique_ptr<ops::Backend>> (*make)(const BackendOptions& options);
};

constexpr Row kRows[] = {
    {"cpu",
     [](const BackendOptions& o) {
       return cpu::make_cpu_backend({.threads = o.threads, .isa = o.isa});
     }},
    {"ref",
     [](const BackendOptions&) {
       return Result<std::unique_ptr<ops::Backend>>(ref::make_ref_backend());
     }},
};

}  // namespace

std::string backend_names() {
  std::string names;
  for (const Row& row : kRows) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

Result<std::unique_ptr<ops::Backend>> make_backend(std::string_view name,
                                                   const BackendOptions& options) {
  for (const Row& row : kRows)
    if (row.name == name) return row.make(options);
  return Error(Code::kInvalidArgument,
               "backend '" + std::string(name) + "' is unknown; known: " + backend_names());
}

}  // namespace mesh::backends
