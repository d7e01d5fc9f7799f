#include "bench/support/bench_model.h"

#include "model/random_model.h"

namespace mesh::bench {

Result<formats::ModelFiles> bench_model() {
  model::RandomModelOptions options;
  options.layers = kModelLayers;
  options.hidden = 1024;
  options.intermediate = 2816;
  options.heads = 16;
  options.kv_heads = 4;
  options.head_dim = 64;
  options.vocabulary = 24576;
  options.context = 8192;
  return model::make_random_model(options);
}

}  // namespace mesh::bench
