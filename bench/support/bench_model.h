#pragma once
// The model of the benches of pipelines.

#include "base/result.h"
#include "formats/model_files.h"

namespace mesh::bench {

inline constexpr std::uint32_t kModelLayers = 8;

// llama, 8 layers, hidden 1024, context 8192, weights by a seed. Its head is as much work as 2.2
// layers.
Result<formats::ModelFiles> bench_model();

}  // namespace mesh::bench
