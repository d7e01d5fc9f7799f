#pragma once
// Shapes of published models by name, to be filled with random weights: speed without a download.

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "model/random_model.h"

namespace mesh::model {

// "qwen3-0.6b, llama-3.2-1b, …"
std::string synthetic_names();
// The shape `name` with weights of the type `weights`: a type name in lower case ("bf16", "q4_0",
// "q4_k", …) or "q4_k_m", "q5_k_m" for the mixtures. Errors: invalid_argument listing the names.
Result<RandomModelOptions> synthetic_shape(std::string_view name, std::string_view weights);

}  // namespace mesh::model
