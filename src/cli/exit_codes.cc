#include "cli/exit_codes.h"

namespace mesh::cli {

std::span<const ExitCode> exit_codes() {
  static constexpr ExitCode kTable[] = {
      {kDone, "done; a node that was asked to end (Ctrl-C, SIGTERM)"},
      {kFailed, "failed: files, the mesh refused this node, no answer"},
      {kUsage, "the command line, the environment or the config file is wrong"},
      {kUnreachable, "no node answers (chat, status)"},
      {kInterrupted, "Ctrl-C ended the answer (chat), the view (status) or, pressed twice, a node"},
      {kTerminated, "a second SIGTERM ended a node that was finishing its requests"},
  };
  return kTable;
}

}  // namespace mesh::cli
