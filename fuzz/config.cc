// Input: config.json, NUL, generation_config.json; the tensors are those of the built-in model.

#include "model/config.h"

#include "formats/model_files.h"
#include "target.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const mesh::formats::ModelFiles builtin = mesh::formats::open_builtin_model();
  const auto [config, generation] = mesh::fuzz::two_parts(mesh::fuzz::text_of(data, size));
  mesh::formats::ModelFiles files;
  files.name = "fuzz";
  files.config_json = config;
  files.generation_config_json = generation;
  files.tensors = builtin.tensors;
  const auto spec = mesh::model::parse_config(files);
  if (!spec.ok()) return 0;
  std::string text = mesh::model::canonical_text(*spec);
  if (mesh::fuzz::planted(spec->layers > 8 && spec->layers % 2 == 1)) text.clear();
  MESH_CHECK(!text.empty() && text.size() < 64u << 10, "a canonical text of {} bytes", text.size());
  return 0;
}
