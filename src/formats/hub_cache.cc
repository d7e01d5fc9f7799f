#include "formats/hub_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "formats/byte_source.h"

namespace mesh::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPartCharacters = 256;
constexpr std::uint64_t kReferenceBytes = 256;  // a commit is 40 hexadecimal digits

bool is_plain(std::string_view part, std::string_view also) {
  const auto allowed = [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-' || also.find(c) != also.npos;
  };
  return !part.empty() && part.size() <= kPartCharacters && part.front() != '.' &&
         part.front() != '/' && part.find("..") == part.npos &&
         std::all_of(part.begin(), part.end(), allowed);
}

bool has_directory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

}  // namespace

std::string hub_cache_directory(const HubEnvironment& environment) {
  if (!environment.hf_hub_cache.empty()) return environment.hf_hub_cache;
  if (!environment.hf_home.empty()) return environment.hf_home + "/hub";
  if (!environment.xdg_cache_home.empty()) return environment.xdg_cache_home + "/huggingface/hub";
  if (!environment.home.empty()) return environment.home + "/.cache/huggingface/hub";
  return {};
}

Result<HubId> parse_hub_id(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::string_view model = text.substr(0, colon);
  const std::string_view file = colon == text.npos ? std::string_view() : text.substr(colon + 1);
  const std::size_t at = model.find('@');
  const std::string_view repository = model.substr(0, at);
  const std::string_view revision =
      at == model.npos ? std::string_view("main") : model.substr(at + 1);
  const std::size_t slash = repository.find('/');
  if (slash == repository.npos || !is_plain(repository.substr(0, slash), "") ||
      !is_plain(repository.substr(slash + 1), "") || !is_plain(revision, "/") ||
      (colon != text.npos && !is_plain(file, "/")))
    return Error(
        Code::kInvalidArgument,
        fmt::format("\"{}\" is not of the form ORG/NAME, ORG/NAME@REVISION or ORG/NAME:FILE",
                    text));
  return HubId{.repository = std::string(repository),
               .revision = std::string(revision),
               .file = std::string(file)};
}

Result<std::string> find_snapshot(const HubId& id, const HubEnvironment& environment) {
  const std::string cache = hub_cache_directory(environment);
  if (cache.empty())
    return Error(Code::kNotFound, fmt::format("{}: no cache of models is known: HF_HUB_CACHE, "
                                              "HF_HOME, XDG_CACHE_HOME and HOME are unset",
                                              id.repository));
  std::string folder = "models--" + id.repository;
  folder.replace(folder.find('/'), 1, "--");
  const fs::path root = fs::path(cache) / folder;
  const std::string fetch =
      fmt::format("fetch it with: hf download {}{}{}", id.repository,
                  id.file.empty() ? std::string() : " " + id.file,
                  id.revision == "main" ? std::string() : " --revision " + id.revision);
  if (!has_directory(root))
    return Error(Code::kNotFound, fmt::format("{} is not in the cache (looked for {}); {}",
                                              id.repository, root.string(), fetch));
  std::string commit = id.revision;
  if (const auto reference =
          read_text_file((root / "refs" / id.revision).string(), kReferenceBytes);
      reference.ok()) {
    commit = *reference;
    while (!commit.empty() && static_cast<unsigned char>(commit.back()) <= ' ') commit.pop_back();
  }
  const fs::path snapshot = root / "snapshots" / commit;
  if (!is_plain(commit, "") || !has_directory(snapshot))
    return Error(Code::kNotFound,
                 fmt::format("revision {} of {} is not in the cache (looked in {}); {}",
                             id.revision, id.repository, root.string(), fetch));
  return snapshot.string();
}

}  // namespace mesh::formats
