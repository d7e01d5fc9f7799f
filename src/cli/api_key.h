#pragma once
// The key that clients of a node send: where it comes from, and one made when none was given.

#include <string>

#include "base/result.h"
#include "cli/options.h"
#include "env/env.h"

namespace mesh::cli {

// "127.0.0.1", "localhost" and the like: nobody else can reach it.
bool is_loopback(const std::string& host);

struct ApiKey {
  std::string text = "";  // none is asked for
  std::string source;     // where it lies, for people
  bool made = false;      // just now: to be shown once
};

// Of a node: --api-key-file as a flag, TOOLKIT_MESH_API_KEY (`variable`), the file of another
// origin, and beyond loopback data_dir/api.key, which is made with mode 0600 when it is missing.
// Errors: invalid_argument, and those of the secret file.
Result<ApiKey> node_api_key(const NodeOptions& options, const std::string& data_dir,
                            const std::string& variable, env::Random& random);

// Of chat and status: the same order; OPENAI_API_KEY (`openai_variable`) for OPENAI_BASE_URL; and
// data_dir/api.key only for a node of this machine, so that the key is sent to nobody else.
Result<std::string> client_api_key(const TargetOptions& target, const std::string& url,
                                   const std::string& variable, const std::string& openai_variable);

}  // namespace mesh::cli
