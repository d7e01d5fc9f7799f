#pragma once
// Whether a mesh really is split: every node computed exactly its own layers, and together they are
// the model.

#include <string>
#include <string_view>

#include "base/result.h"

namespace mesh::cli {

// `status_json` as GET /mesh/status answers. One sentence when the ready nodes' layers are disjoint
// and cover the model, each node's bytes are those of its layers, and all nodes have computed the
// same, non-zero number of rows. Errors: invalid_argument with what is wrong, corrupt for another
// format.
Result<std::string> check_coverage(std::string_view status_json);

}  // namespace mesh::cli
