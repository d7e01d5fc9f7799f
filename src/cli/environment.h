#pragma once
// Variables of the environment that the verbs read, in one place.

#include <string>
#include <vector>

#include "formats/model_files.h"

namespace mesh::cli {

// "" when unset.
std::string environment(const char* name);
// Names of all variables that begin with TOOLKIT_MESH_.
std::vector<std::string> environment_names();
formats::HubEnvironment hub_environment();

}  // namespace mesh::cli
