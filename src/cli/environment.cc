#include "cli/environment.h"

#include <cstdlib>

namespace mesh::cli {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
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
