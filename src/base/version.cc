#include "base/version.h"

namespace mesh {

std::string_view engine_version() {
  return MESH_VERSION;
}

}  // namespace mesh
