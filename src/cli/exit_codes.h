#pragma once
// What the program's exit status means, in one table (docs/cli.md shows the same one).

#include <span>
#include <string_view>

namespace mesh::cli {

inline constexpr int kDone = 0, kFailed = 1, kUsage = 2, kUnreachable = 3, kInterrupted = 130,
                     kTerminated = 143;

struct ExitCode {
  int code;
  std::string_view meaning;
};

// Ascending by code.
std::span<const ExitCode> exit_codes();

}  // namespace mesh::cli
