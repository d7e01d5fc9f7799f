#pragma once
// Small files that only their owner may read.

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mesh::net {

// Contents of a regular file of this user with no rights for group and others; symbolic links are
// not followed. Errors: not_found; permission_denied with the command that puts it right;
// corrupt when larger than `bytes_max`; unavailable.
Result<std::string> read_secret_file(const std::string& path, std::size_t bytes_max);

// Makes the file with mode 0600, complete or not at all, on disk when this returns. An existing
// one is never replaced. Errors: invalid_argument when it exists, unavailable.
Result<void> create_secret_file(const std::string& path, std::string_view contents);

}  // namespace mesh::net
