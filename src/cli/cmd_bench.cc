// toolkit-mesh bench: how fast this machine answers with a model, or with random weights of its
// shape.

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/version.h"
#include "cli/console.h"
#include "cli/environment.h"
#include "cli/options.h"
#include "formats/quantized_source.h"
#include "measure/speed.h"
#include "model/config.h"
#include "model/synthetic_shapes.h"
#include "node/machine.h"
#include "ops/kv_layout.h"
#include "topology/topology.h"

namespace mesh::cli {
namespace {

using Json = nlohmann::ordered_json;

// What is measured, opened once to see that it is there and how many layers it has.
struct Subject {
  std::string name;
  std::function<Result<formats::ModelFiles>()> open;
  std::uint32_t layers = 0;
  std::string_view kv_dtype;
};

Result<Subject> subject(const BenchOptions& o) {
  Subject out;
  std::optional<ops::DType> kv_type;
  if (!o.kv_dtype.empty()) {
    MESH_ASSIGN_OR_RETURN(kv_type, ops::parse_kv_dtype(o.kv_dtype));
  }
  if (o.synthetic.empty()) {
    const std::string name = o.model;
    MESH_ASSIGN_OR_RETURN(const formats::Quantize quantize, formats::parse_quantize(o.quantize));
    out.open = [name, quantize, kv_type]() -> Result<formats::ModelFiles> {
      MESH_ASSIGN_OR_RETURN(formats::ModelFiles files,
                            formats::open_model(name, hub_environment()));
      formats::quantize_model(files, quantize);
      files.kv_type = kv_type;
      return files;
    };
  } else {
    MESH_ASSIGN_OR_RETURN(const model::RandomModelOptions shape,
                          model::synthetic_shape(o.synthetic, o.weights));
    out.open = [shape, kv_type]() -> Result<formats::ModelFiles> {
      MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, model::make_random_model(shape));
      files.kv_type = kv_type;
      return files;
    };
  }
  MESH_ASSIGN_OR_RETURN(const formats::ModelFiles files, out.open());
  MESH_ASSIGN_OR_RETURN(const model::ModelSpec spec, model::parse_config(files));
  out.name = o.synthetic.empty() ? files.name
                                 : fmt::format("{}, random {} weights", o.synthetic, o.weights);
  out.layers = spec.layers;
  out.kv_dtype = ops::kv_dtype_name(spec.kv);
  return out;
}

struct Outcome {
  std::string name;
  std::string_view kv_dtype;
  std::uint32_t stages = 1;
  int threads = 1;
  ops::BackendInfo backend;
  Duration load{};
  std::uint64_t weights = 0;
  std::uint64_t peak_memory = 0;
  measure::SpeedReport speed;
};

void print_text(const Outcome& o) {
  fmt::print("{}: {} of weights; KV cache in {}; {} stage{} of {} thread{}, {}\n", o.name,
             shown_bytes(o.weights), o.kv_dtype, o.stages, o.stages == 1 ? "" : "s", o.threads,
             o.threads == 1 ? "" : "s", o.backend.isa);
  fmt::print("{}; loaded in {:.2f} s; peak memory {}\n", o.backend.device, to_seconds(o.load),
             shown_bytes(o.peak_memory));
  if (!o.speed.prompts.empty()) {
    fmt::print("\n  prompt   first token   tokens/s       best\n");
    for (const measure::PromptSpeed& p : o.speed.prompts)
      fmt::print("  {:>6}   {:>8.0f} ms {:>10.1f} {:>10.1f}\n", p.tokens, p.first_token_ms,
                 p.tokens_per_second, p.fastest);
  }
  if (o.speed.streams.empty()) return;
  fmt::print("\n  streams   tokens/s       best   per stream   token gap p50, p99   batch\n");
  for (const measure::StreamSpeed& s : o.speed.streams)
    fmt::print("  {:>7} {:>10.1f} {:>10.1f} {:>12.1f} {:>9.2f}, {:.2f} ms {:>10.1f}\n", s.streams,
               s.tokens_per_second, s.fastest, s.tokens_per_second / s.streams, s.gap_ms,
               s.gap_p99_ms, s.batch);
}

void print_json(const Outcome& o) {
  Json json;
  json["model"] = o.name;
  json["version"] = engine_version();
  json["stages"] = o.stages;
  json["threads_per_stage"] = o.threads;
  json["isa"] = o.backend.isa;
  json["device"] = o.backend.device;
  json["numeric_class"] = o.backend.numeric_class;
  json["load_seconds"] = to_seconds(o.load);
  json["weight_bytes"] = o.weights;
  json["kv_dtype"] = o.kv_dtype;
  json["peak_memory_bytes"] = o.peak_memory;
  json["prompts"] = Json::array();
  for (const measure::PromptSpeed& p : o.speed.prompts)
    json["prompts"].push_back({{"tokens", p.tokens},
                               {"first_token_ms", p.first_token_ms},
                               {"tokens_per_second", p.tokens_per_second},
                               {"best_tokens_per_second", p.fastest}});
  json["streams"] = Json::array();
  for (const measure::StreamSpeed& s : o.speed.streams)
    json["streams"].push_back({{"streams", s.streams},
                               {"tokens_per_second", s.tokens_per_second},
                               {"best_tokens_per_second", s.fastest},
                               {"gap_ms", s.gap_ms},
                               {"gap_p99_ms", s.gap_p99_ms},
                               {"batch", s.batch}});
  fmt::print("{}\n", json.dump(2));
}

Result<Outcome> measure_all(const BenchOptions& o, Console& console) {
  MESH_ASSIGN_OR_RETURN(const Subject what, subject(o));
  measure::SpeedOptions speed;
  speed.prompts = o.prompts;
  speed.streams = o.streams;
  speed.new_tokens = o.tokens;
  speed.repeats = o.repeats;
  speed.progress = [&](const std::string& now) { console.progress("  measuring: " + now); };

  Outcome out;
  out.name = what.name;
  out.kv_dtype = what.kv_dtype;
  out.stages = o.stages;
  const int share = std::max(1, topology::default_threads() / static_cast<int>(o.stages));
  out.threads = o.threads > 0 ? o.threads : share;
  measure::LocalMeshOptions mesh_options;
  mesh_options.model = what.open;
  if (o.stages > what.layers)
    return Error(Code::kInvalidArgument,
                 fmt::format("--stages {}: the model has {} layers", o.stages, what.layers));
  if (o.stages > 1) {
    MESH_ASSIGN_OR_RETURN(formats::ModelFiles files, what.open());
    MESH_ASSIGN_OR_RETURN(mesh_options.stages, measure::planned_stages(std::move(files), o.stages));
  }
  mesh_options.threads = out.threads;
  mesh_options.isa = o.isa;
  mesh_options.pages = measure::pages_needed(speed);
  console.progress("  loading " + what.name);
  MESH_ASSIGN_OR_RETURN(const std::unique_ptr<measure::LocalMesh> mesh,
                        measure::LocalMesh::start(mesh_options));
  out.load = mesh->load_time();
  out.backend = mesh->backend();
  out.weights = mesh->source_bytes();
  MESH_ASSIGN_OR_RETURN(out.speed, measure::measure_speed(*mesh, speed));
  out.peak_memory = node::peak_memory();
  return out;
}

}  // namespace

int run_bench(const BenchOptions& options) {
  Console console(options.json);
  Result<Outcome> outcome = measure_all(options, console);
  console.end_progress();
  if (!outcome.ok()) {
    fmt::print(stderr, "toolkit-mesh bench: {}\n", outcome.error().message);
    return outcome.error().code == Code::kInvalidArgument ? kUsage : kFailed;
  }
  options.json ? print_json(*outcome) : print_text(*outcome);
  return kDone;
}

}  // namespace mesh::cli
