#pragma once
// The models a node can reach on its own disk, and what mesh and planner need to know of one.

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "formats/model_files.h"
#include "formats/quantized_source.h"
#include "model/generation_config.h"
#include "model/spec.h"
#include "node/mesh_node.h"
#include "ops/kv_layout.h"

namespace mesh::node {

struct OpenedModel {
  formats::ModelFiles files;
  std::string conversion;  // what --quantize does to it, a sentence; "" without
  model::ModelSpec spec;
  model::SamplingDefaults sampling;
  LocalModel local;
};

// What whoever opens a model may choose beside its files.
struct ModelChoices {
  formats::Quantize quantize = formats::Quantize::kNone;
  std::optional<ops::DType> kv_type = std::nullopt;  // none: the type of the residual stream
};

// Parses and fingerprints files that are open. Errors: those of model::parse_config,
// model::parse_sampling_defaults and model::fingerprint.
Result<OpenedModel> describe_model(formats::ModelFiles files);

// Opens, parses and fingerprints; reads 512 bytes of each tensor. Blocks on files.
// Errors: those of formats::open_model, model::parse_config,
// model::parse_sampling_defaults and model::fingerprint.
Result<OpenedModel> open_local_model(const std::string& spec, const formats::HubEnvironment& hub,
                                     const ModelChoices& choices = {});

// The model of the mesh among what is here: the built-in one, or the same name in the Hugging Face
// cache, converted as its name says (":q8", ":q4"), with the mesh's type of KV cache. Errors:
// not_found saying which model is missing, where it was looked for and what to do.
Result<OpenedModel> find_mesh_model(const wire::ModelIdentity& wanted,
                                    const formats::HubEnvironment& hub);

}  // namespace mesh::node
