#pragma once
// The table of backends: name → factory.

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "ops/ops.h"

namespace mesh::backends {

struct BackendOptions {
  int threads = 1;    // cpu
  std::string isa{};  // cpu: as backends/cpu/isa.h takes it; "": best
};

// "cpu" or "ref". Errors: invalid_argument for an unknown name (lists the known ones), what the
// factory returns.
Result<std::unique_ptr<ops::Backend>> make_backend(std::string_view name,
                                                   const BackendOptions& options);

// "cpu, ref"
std::string backend_names();

}  // namespace mesh::backends
