#pragma once
// Variables of the environment that the verbs read, in one place.

#include <string>

#include "formats/model_files.h"

namespace mesh::cli {

// "" when unset.
std::string environment(const char* name);
formats::HubEnvironment hub_environment();

}  // namespace mesh::cli
