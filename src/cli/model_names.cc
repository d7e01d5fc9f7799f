#include "cli/model_names.h"

#include <algorithm>
#include <filesystem>

#include "cli/suggest.h"

namespace mesh::cli {
namespace {

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

}  // namespace

std::vector<std::string> known_models(const formats::HubEnvironment& hub) {
  std::vector<std::string> names = {"pocket"};
  constexpr std::string_view kPrefix = "models--";
  std::error_code failed;
  std::filesystem::directory_iterator entry(formats::hub_cache_directory(hub), failed), end;
  for (; !failed && entry != end; entry.increment(failed)) {
    std::string name = entry->path().filename().string();
    if (name.rfind(kPrefix, 0) != 0) continue;
    name = name.substr(kPrefix.size());
    if (const std::size_t at = name.find("--"); at != std::string::npos) name.replace(at, 2, "/");
    names.push_back(std::move(name));
  }
  std::sort(names.begin() + 1, names.end());
  return names;
}

std::string closest_model(const std::string& typed, const std::vector<std::string>& names) {
  if (typed.empty() || typed.front() == '/' || typed.front() == '.' || typed.front() == '~')
    return "";
  std::vector<std::string> words, owners;
  for (const std::string& name : names) {
    words.push_back(lower(name));
    owners.push_back(name);
    if (const std::size_t slash = name.find('/'); slash != std::string::npos) {
      words.push_back(lower(name.substr(slash + 1)));
      owners.push_back(name);
    }
  }
  const std::string close = closest_word(lower(typed), words);
  const auto found = std::find(words.begin(), words.end(), close);
  return close.empty() || found == words.end()
             ? ""
             : owners[static_cast<std::size_t>(found - words.begin())];
}

}  // namespace mesh::cli
