#include "model/generation_config.h"

#include "base/limits.h"
#include "model/config_fields.h"

namespace mesh::model {
namespace {

constexpr double kSmallest = 1e-6;  // of fields that must be above 0
constexpr double kLargest = 1e6;

}  // namespace

Result<SamplingDefaults> parse_sampling_defaults(const std::string& generation_config_json) {
  SamplingDefaults out;
  if (generation_config_json.empty()) return out;
  MESH_ASSIGN_OR_RETURN(const ConfigFields fields,
                        ConfigFields::parse(generation_config_json, "generation_config.json"));
  MESH_ASSIGN_OR_RETURN(const double temperature,
                        fields.number("temperature", 0, kLargest, double{out.temperature}));
  MESH_ASSIGN_OR_RETURN(out.top_k, fields.whole("top_k", 0, limits::kVocabulary, out.top_k));
  MESH_ASSIGN_OR_RETURN(const double top_p,
                        fields.number("top_p", kSmallest, 1, double{out.top_p}));
  MESH_ASSIGN_OR_RETURN(const double min_p, fields.number("min_p", 0, 1, double{out.min_p}));
  MESH_ASSIGN_OR_RETURN(
      const double penalty,
      fields.number("repetition_penalty", kSmallest, kLargest, double{out.repetition_penalty}));
  MESH_ASSIGN_OR_RETURN(const bool samples, fields.flag("do_sample", true));
  out.temperature = samples ? static_cast<float>(temperature) : 0.0f;
  out.top_p = static_cast<float>(top_p);
  out.min_p = static_cast<float>(min_p);
  out.repetition_penalty = static_cast<float>(penalty);
  return out;
}

}  // namespace mesh::model
