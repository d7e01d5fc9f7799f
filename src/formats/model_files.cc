#include "formats/model_files.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "formats/byte_source.h"
#include "formats/gguf.h"
#include "formats/gguf_model.h"
#include "formats/hub_cache.h"
#include "formats/safetensors.h"

namespace mesh::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kConfig = "config.json";
constexpr std::string_view kWeights = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kGguf = ".gguf";

bool is_present(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// The text of a file that may be missing: then "".
Result<std::string> optional_text(const fs::path& path) {
  auto text = read_text_file(path.string(), limits::kJsonFileBytes);
  if (!text.ok() && text.error().code == Code::kNotFound) return std::string();
  return text;
}

// What a directory without safetensors holds instead, for the message; "" if nothing known.
std::string other_weights(const fs::path& directory) {
  std::error_code ignored;
  for (fs::directory_iterator at(directory, ignored), end; !ignored && at != end;
       at.increment(ignored)) {
    const fs::path file = at->path().filename();
    const std::string extension = file.extension().string();
    if (extension == ".bin" || extension == ".pth" || extension == ".pt") return file.string();
  }
  return {};
}

Result<std::shared_ptr<TensorSource>> open_tensors(const fs::path& directory) {
  if (is_present(directory / kIndex)) return open_safetensors_index((directory / kIndex).string());
  if (!is_present(directory / kWeights)) {
    const std::string other = other_weights(directory);
    return Error(
        other.empty() ? Code::kNotFound : Code::kUnsupported,
        fmt::format("{} has no {} and no {}{}", directory.string(), kWeights, kIndex,
                    other.empty() ? "" : "; it holds " + other + ", a format that is not read"));
  }
  MESH_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> file,
                        open_file((directory / kWeights).string()));
  return open_safetensors(std::move(file));
}

Result<std::shared_ptr<TensorSource>> open_single(const fs::path& path) {
  MESH_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> file, open_file(path.string()));
  return open_safetensors(std::move(file));
}

// `weights`: the one file that holds the tensors; empty to look for the usual names.
Result<ModelFiles> open_directory(const fs::path& directory, const fs::path& weights,
                                  std::string name) {
  ModelFiles files;
  files.name = std::move(name);
  files.origin = directory.string();
  MESH_ASSIGN_OR_RETURN(files.config_json, optional_text(directory / kConfig));
  if (files.config_json.empty())
    return Error(Code::kNotFound, fmt::format("{} has no config.json; is it a model directory?",
                                              directory.string()));
  MESH_ASSIGN_OR_RETURN(files.generation_config_json,
                        optional_text(directory / "generation_config.json"));
  MESH_ASSIGN_OR_RETURN(files.tokenizer_json, optional_text(directory / "tokenizer.json"));
  MESH_ASSIGN_OR_RETURN(files.tokenizer_config_json,
                        optional_text(directory / "tokenizer_config.json"));
  MESH_ASSIGN_OR_RETURN(files.chat_template, optional_text(directory / "chat_template.jinja"));
  if (files.chat_template.empty() && !files.tokenizer_config_json.empty()) {
    auto found = template_of_tokenizer_config(files.tokenizer_config_json);
    if (!found.ok())
      return found.error().with_context((directory / "tokenizer_config.json").string());
    files.chat_template = std::move(found).value();
  }
  auto tensors = weights.empty() ? open_tensors(directory) : open_single(weights);
  if (!tensors.ok()) return tensors.error();
  files.tensors = std::move(tensors).value();
  return files;
}

std::string directory_name(const fs::path& directory) {
  std::error_code failed;
  const fs::path whole = fs::canonical(directory, failed);
  const std::string name = (failed ? directory : whole).filename().string();
  return name.empty() ? directory.string() : name;
}

Result<ModelFiles> open_gguf_file(const fs::path& path) {
  MESH_ASSIGN_OR_RETURN(GgufModel gguf, open_gguf(path.string()));
  return gguf_model_files(std::move(gguf));
}

// "model-00002-of-00003.gguf" is "model-?-of-00003.gguf", so that parts of one model are equal; any
// other name is itself.
std::string without_part(const std::string& file) {
  constexpr std::string_view kShape = "-00000-of-00000.gguf";
  if (file.size() < kShape.size()) return file;
  const std::size_t start = file.size() - kShape.size();
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    const char c = file[start + i];
    if (kShape[i] == '0' ? c < '0' || c > '9' : c != kShape[i]) return file;
  }
  return file.substr(0, start) + "-?" + file.substr(start + 6);
}

// The GGUF models of a directory and its folders, each by its first file, relative and ascending.
// Companions of image models (mmproj) are none.
std::vector<std::string> gguf_models(const fs::path& directory) {
  std::map<std::string, std::string> first_files;
  std::error_code failed;
  fs::recursive_directory_iterator at(directory, failed);
  for (const fs::recursive_directory_iterator end; !failed && at != end; at.increment(failed)) {
    if (at.depth() >= 1) at.disable_recursion_pending();
    const std::string file = at->path().filename().string();
    if (at->path().extension() != kGguf || file.rfind("mmproj", 0) == 0) continue;
    if (first_files.size() >= limits::kShardsPerModel) break;
    std::string relative = at->path().lexically_relative(directory).string();
    std::string& first = first_files[without_part(relative)];
    if (first.empty() || relative < first) first = std::move(relative);
  }
  std::vector<std::string> list;
  for (auto& [key, file] : first_files) list.push_back(std::move(file));
  std::sort(list.begin(), list.end());
  return list;
}

std::string joined(const std::vector<std::string>& list) {
  constexpr std::size_t kShown = 32;
  std::string text;
  for (std::size_t i = 0; i < std::min(list.size(), kShown); ++i)
    text += (text.empty() ? "" : ", ") + list[i];
  return list.size() > kShown ? text + ", …" : text;
}

// A directory of safetensors, or of one GGUF model.
Result<ModelFiles> open_any_directory(const fs::path& directory, std::string name) {
  const bool has_safetensors = is_present(directory / kConfig) &&
                               (is_present(directory / kIndex) || is_present(directory / kWeights));
  const std::vector<std::string> found =
      has_safetensors ? std::vector<std::string>() : gguf_models(directory);
  if (found.empty()) return open_directory(directory, {}, std::move(name));
  if (found.size() > 1)
    return Error(Code::kInvalidArgument, fmt::format("{} holds several GGUF models, name one: {}",
                                                     directory.string(), joined(found)));
  return open_gguf_file(directory / found.front());
}

// A model of the hub's cache is called as it is found there, whatever its files say: a node that
// joins finds it by that name.
Result<ModelFiles> open_snapshot(const HubId& id, const fs::path& snapshot) {
  Result<ModelFiles> files = Error(Code::kInternal, "");
  if (id.file.empty()) {
    files = open_any_directory(snapshot, id.repository);
  } else if (fs::path(id.file).extension() != kGguf) {
    return Error(Code::kUnsupported,
                 fmt::format("{}:{}: only a .gguf file can be named", id.repository, id.file));
  } else if (!is_present(snapshot / id.file)) {
    const std::string found = joined(gguf_models(snapshot));
    return Error(Code::kNotFound,
                 fmt::format("{} has no {} in the cache (looked in {}{}{})", id.repository, id.file,
                             snapshot.string(), found.empty() ? "" : "; it holds ", found));
  } else {
    files = open_gguf_file(snapshot / id.file);
  }
  if (files.ok())
    files.value().name = id.repository + (id.file.empty() ? std::string() : ":" + id.file);
  return files;
}

Result<ModelFiles> open_path(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return open_any_directory(path, directory_name(path));
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const std::string file = path.filename().string();
  if (file == kConfig || file == kIndex) return open_directory(parent, {}, directory_name(parent));
  if (path.extension() == ".safetensors") {
    // One shard of several is not the model: its index is.
    const bool whole = file == kWeights || !is_present(parent / kIndex);
    return open_directory(parent, whole ? path : fs::path(), directory_name(parent));
  }
  if (path.extension() == kGguf) return open_gguf_file(path);
  return Error(
      Code::kUnsupported,
      fmt::format("{} is not a model directory, a config.json, a .safetensors or a .gguf file",
                  path.string()));
}

}  // namespace

Result<std::string> template_of_tokenizer_config(const std::string& tokenizer_config_json) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto failure = parser.parse(tokenizer_config_json).get(root);
      failure != simdjson::SUCCESS)
    return Error(Code::kCorrupt, simdjson::error_message(failure));
  simdjson::dom::element value;
  if (root["chat_template"].get(value) != simdjson::SUCCESS) return std::string();
  std::string_view text;
  if (value.get_string().get(text) == simdjson::SUCCESS) return std::string(text);
  if (value.is_null()) return std::string();
  simdjson::dom::array list;
  if (value.get_array().get(list) != simdjson::SUCCESS)
    return Error(Code::kCorrupt, "chat_template is neither a text nor a list of named templates");
  for (const simdjson::dom::element entry : list) {
    std::string_view name;
    if (entry["name"].get_string().get(name) != simdjson::SUCCESS || name != "default") continue;
    if (entry["template"].get_string().get(text) != simdjson::SUCCESS)
      return Error(Code::kCorrupt, "chat_template: the template named default is no text");
    return std::string(text);
  }
  return std::string();
}

Result<ModelFiles> open_model(const std::string& spec, const HubEnvironment& environment) {
  if (spec.empty() || spec == "pocket") return open_builtin_model();
  if (is_present(spec)) return open_path(spec);
  const auto id = parse_hub_id(spec);
  if (!id.ok())
    return Error(
        Code::kNotFound,
        fmt::format(
            "no model \"{}\": no such directory or file, not an ORG/NAME of the cache, and not "
            "\"pocket\", the built-in model",
            spec));
  MESH_ASSIGN_OR_RETURN(const std::string snapshot, find_snapshot(*id, environment));
  return open_snapshot(*id, snapshot);
}

}  // namespace mesh::formats
