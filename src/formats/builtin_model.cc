#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "formats/byte_source.h"
#include "formats/model_files.h"
#include "formats/safetensors.h"

// Defined in builtin_data.S.
#define MESH_BUILTIN(name)                          \
  extern "C" const std::byte mesh_builtin_##name[]; \
  extern "C" const std::byte mesh_builtin_##name##_end[]
MESH_BUILTIN(config);
MESH_BUILTIN(generation_config);
MESH_BUILTIN(tokenizer);
MESH_BUILTIN(tokenizer_config);
MESH_BUILTIN(chat_template);
MESH_BUILTIN(model);
#undef MESH_BUILTIN

namespace mesh::formats {
namespace {

std::span<const std::byte> between(const std::byte* begin, const std::byte* end) {
  return {begin, static_cast<std::size_t>(end - begin)};
}

std::string text(const std::byte* begin, const std::byte* end) {
  return std::string(reinterpret_cast<const char*>(begin), static_cast<std::size_t>(end - begin));
}

}  // namespace

ModelFiles open_builtin_model() {
  auto tensors = open_safetensors(
      borrow_memory(between(mesh_builtin_model, mesh_builtin_model_end), "built in"));
  MESH_CHECK(tensors.ok(), "{}", tensors.error().message);  // our own bytes
  ModelFiles files;
  files.name = "pocket";
  files.origin = "built in";
  files.config_json = text(mesh_builtin_config, mesh_builtin_config_end);
  files.generation_config_json =
      text(mesh_builtin_generation_config, mesh_builtin_generation_config_end);
  files.tokenizer_json = text(mesh_builtin_tokenizer, mesh_builtin_tokenizer_end);
  files.tokenizer_config_json =
      text(mesh_builtin_tokenizer_config, mesh_builtin_tokenizer_config_end);
  files.chat_template = text(mesh_builtin_chat_template, mesh_builtin_chat_template_end);
  files.tensors = std::move(tensors).value();
  return files;
}

}  // namespace mesh::formats
