#pragma once
// The files of one model, wherever they come from: a directory, the Hugging Face cache, or the
// binary itself.

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "formats/tensor_source.h"

namespace mesh::formats {

// Texts are the whole files (of GGUF models: made from the metadata); one that the model does not
// have is empty (a model without tokenizer can still be evaluated by ids).
struct ModelFiles {
  std::string name;  // "ORG/NAME" or "ORG/NAME:FILE" of the hub, a GGUF file's own, the
                     // directory's, or "pocket"
  std::string config_json;
  std::string generation_config_json;
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string chat_template;  // chat_template.jinja, else the default one of tokenizer_config.json
  std::shared_ptr<TensorSource> tensors;
  std::string origin;  // path of the directory or GGUF file, or "built in"
  // What the KV cache is kept in (ops/kv_layout.h) when it is not the type of the residual stream.
  // No file says so: whoever opens the model chooses, and the choice is part of what it computes.
  std::optional<tensor::DType> kv_type = std::nullopt;
};

// Variables of the environment that place the hub's cache; the caller reads them, empty means
// unset.
struct HubEnvironment {
  std::string hf_hub_cache;    // HF_HUB_CACHE, before it HUGGINGFACE_HUB_CACHE
  std::string hf_home;         // HF_HOME
  std::string xdg_cache_home;  // XDG_CACHE_HOME
  std::string home;            // HOME
};

// HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub or HOME/.cache/huggingface/hub; "" if
// all are unset. Source: huggingface_hub, constants.py.
std::string hub_cache_directory(const HubEnvironment& environment);

// Opens what `spec` names, in this order: "" or "pocket" is the built-in model; an existing
// directory, or a file of one (config.json, *.safetensors, model.safetensors.index.json), or a
// *.gguf file; ORG/NAME[@REVISION][:FILE.gguf] in the hub's cache, which is read only. A directory
// without safetensors must hold one GGUF model (of one or several files) at most one folder deep.
// No weight is read. Errors: not_found with the places looked at, unsupported (a format that is not
// read), invalid_argument (several GGUF models to choose from; lists them), corrupt.
Result<ModelFiles> open_model(const std::string& spec, const HubEnvironment& environment);

// The model embedded in the binary, models/pocket. Cheap; its bytes are read-only data of the
// program.
ModelFiles open_builtin_model();

// The template of a tokenizer_config.json: "chat_template" as a string, or the entry named
// "default" of a list of {name, template}; "" if there is none. Errors: corrupt (no JSON).
Result<std::string> template_of_tokenizer_config(const std::string& tokenizer_config_json);

}  // namespace mesh::formats
