// toolkit-mesh eval: every number of a model for given token ids, for comparison with a reference.

#include <cstdio>

#include "cli/environment.h"
#include "cli/options.h"
#include "engine/eval.h"
#include "topology/topology.h"

namespace mesh::cli {

int run_eval_command(const EvalCommandOptions& options) {
  engine::EvalOptions eval;
  eval.model = options.model;
  eval.hub = hub_environment();
  eval.backend = options.backend;
  eval.isa = options.isa;
  eval.quantize = options.quantize;
  eval.kv_dtype = options.kv_dtype;
  eval.threads = options.threads > 0 ? options.threads : topology::default_threads();
  eval.ids_files = options.ids;
  eval.out_file = options.out;
  eval.hidden = options.hidden;
  eval.generate = options.generate;
  eval.sampling = options.sampling;
  eval.cuts = options.cuts;
  eval.chunk = options.chunk;
  eval.explain = options.explain;
  const Result<std::vector<std::string>> lines = engine::run_eval(eval);
  if (!lines.ok()) {
    fmt::print(stderr, "✗ {}\n", lines.error().message);
    return lines.error().code == Code::kInvalidArgument ? kUsage : kFailed;
  }
  for (const std::string& line : *lines) fmt::print("{}\n", line);
  fmt::print("✓ {}\n", options.out);
  return kDone;
}

}  // namespace mesh::cli
