#pragma once

#include "cli/options.h"

namespace mesh::cli {

// status --watch: until q or Ctrl-C. Exit code.
int run_watch(const StatusOptions& options);

}  // namespace mesh::cli
