#pragma once
// How a model's makers want it to be sampled: generation_config.json.

#include <cstdint>
#include <string>

#include "base/result.h"

namespace mesh::model {

// What a request gets that does not say otherwise. The defaults here are those of a model that says
// nothing: the model's own distribution.
struct SamplingDefaults {
  float temperature = 1.0f;
  std::uint32_t top_k = 0;  // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  friend bool operator==(const SamplingDefaults&, const SamplingDefaults&) = default;
};

// `generation_config_json` may be empty. do_sample=false means temperature 0. Errors: corrupt (no
// JSON, wrong types), invalid_argument (values out of range), both with the name of the field.
// Source: GenerationConfig of Hugging Face transformers.
Result<SamplingDefaults> parse_sampling_defaults(const std::string& generation_config_json);

}  // namespace mesh::model
