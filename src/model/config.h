#pragma once
// From config.json and generation_config.json to a ModelSpec.

#include <string>

#include "base/result.h"
#include "formats/model_files.h"
#include "model/spec.h"

namespace mesh::model {

// Reads both spellings of config.json (transformers 4 and 5). Everything that would change a number
// and is not implemented is refused by the name of its field; what is switched off or unused is
// ignored. The residual type follows from the element type of the embedding tensor. Errors: corrupt
// (no JSON, wrong types), invalid_argument (values out of range), unsupported (model type,
// feature), not_found (no embedding tensor). Source: the configuration classes
// of transformers 4 and 5.
Result<ModelSpec> parse_config(const formats::ModelFiles& files);

// One line per field that decides what the model computes, "name=value", numbers exact. Equal specs
// give equal texts whatever files they came from: the text is hashed into the fingerprint, so a
// changed format is a new protocol.
std::string canonical_text(const ModelSpec& spec);

}  // namespace mesh::model
