#include "cli/environment.h"

#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace mesh::cli {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::vector<std::string> environment_names() {
  std::vector<std::string> names;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (text.rfind("TOOLKIT_MESH_", 0) == 0) names.emplace_back(text.substr(0, text.find('=')));
  }
  return names;
}

formats::HubEnvironment hub_environment() {
  formats::HubEnvironment hub;
  hub.hf_hub_cache = environment("HF_HUB_CACHE");
  if (hub.hf_hub_cache.empty()) hub.hf_hub_cache = environment("HUGGINGFACE_HUB_CACHE");
  hub.hf_home = environment("HF_HOME");
  hub.xdg_cache_home = environment("XDG_CACHE_HOME");
  hub.home = environment("HOME");
  return hub;
}

}  // namespace mesh::cli
