#pragma once
// Names of the models that are here, for "did you mean …?".

#include <string>
#include <vector>

#include "formats/model_files.h"

namespace mesh::cli {

// "pocket" and every ORG/NAME in the Hugging Face cache.
std::vector<std::string> known_models(const formats::HubEnvironment& hub);
// The name that `typed` probably means: without regard to case, and of ORG/NAME also NAME alone.
// "" when none is close or `typed` is a path.
std::string closest_model(const std::string& typed, const std::vector<std::string>& names);

}  // namespace mesh::cli
