#include "model/registry.h"

#include <fmt/format.h>

#include <vector>

#include "model/families/families.h"

namespace mesh::model {
namespace {

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", parse_llama},
    {"qwen2", "Qwen2ForCausalLM", parse_qwen2},
    {"qwen2_moe", "Qwen2MoeForCausalLM", parse_qwen2_moe},
    {"qwen3", "Qwen3ForCausalLM", parse_qwen3},
    {"qwen3_moe", "Qwen3MoeForCausalLM", parse_qwen3_moe},
};

std::string supported_types() {
  std::string text;
  for (const Family& family : kFamilies)
    text += (text.empty() ? "" : ", ") + std::string(family.model_type);
  return text;
}

}  // namespace

std::span<const Family> families() {
  return kFamilies;
}

Result<const Family*> find_family(const ConfigFields& config) {
  MESH_ASSIGN_OR_RETURN(const std::string type, config.text("model_type", ""));
  MESH_ASSIGN_OR_RETURN(const std::vector<std::string> architectures,
                        config.texts("architectures"));
  const std::string architecture = architectures.empty() ? "" : architectures.front();
  for (const Family& family : kFamilies)
    if (type.empty() ? family.architecture == architecture : family.model_type == type)
      return &family;
  const std::string found = type.empty() ? fmt::format("architecture \"{}\"", architecture)
                                         : fmt::format("model_type \"{}\"", type);
  return Error(Code::kUnsupported, fmt::format("config.json: {} is not supported; supported are {}",
                                               found, supported_types()));
}

}  // namespace mesh::model
