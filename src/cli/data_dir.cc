#include "cli/data_dir.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cli/environment.h"

namespace mesh::cli {
namespace {

std::string node_path(const std::string& data_dir, int number) {
  return number == 1 ? data_dir : fmt::format("{}/node-{}", data_dir, number);
}

Result<void> make_private(const std::string& path) {
  std::error_code failed;
  const bool created = std::filesystem::create_directories(path, failed);
  if (failed)
    return Error(Code::kUnavailable, fmt::format("cannot create {}: {}", path, failed.message()));
  if (created) ::chmod(path.c_str(), 0700);
  return {};
}

}  // namespace

Result<std::string> data_directory(const std::string& asked) {
  if (!asked.empty()) return asked;
  if (const std::string xdg = environment("XDG_DATA_HOME"); !xdg.empty())
    return xdg + "/toolkit-mesh";
  if (const std::string home = environment("HOME"); !home.empty())
    return home + "/.local/share/toolkit-mesh";
  return Error(Code::kInvalidArgument, "neither HOME nor XDG_DATA_HOME is set; give --data-dir");
}

Result<NodeDirectory> NodeDirectory::claim(const std::string& data_dir) {
  for (int number = 1; number <= limits::kNodesPerMachine; ++number) {
    const std::string path = node_path(data_dir, number);
    MESH_RETURN_IF_ERROR(make_private(path));
    const std::string lock_path = path + "/node.lock";
    const int lock = ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (lock < 0)
      return Error(Code::kUnavailable,
                   fmt::format("cannot write {}: {}", lock_path, std::strerror(errno)));
    if (::flock(lock, LOCK_EX | LOCK_NB) == 0) return NodeDirectory(path, lock);
    ::close(lock);
  }
  return Error(Code::kResourceExhausted,
               fmt::format("{} nodes already run from {}; give this one another --data-dir",
                           limits::kNodesPerMachine, data_dir));
}

NodeDirectory::NodeDirectory(NodeDirectory&& other) noexcept
    : path_(std::move(other.path_)),
      lock_(std::exchange(other.lock_, -1)),
      announced_(std::exchange(other.announced_, false)) {}

void NodeDirectory::forget() {
  if (announced_) ::unlink((path_ + "/node.json").c_str());
  announced_ = false;
}

NodeDirectory::~NodeDirectory() {
  forget();
  if (lock_ >= 0) ::close(lock_);
}

Result<void> NodeDirectory::announce(const std::string& http, const std::string& peer,
                                     const std::string& id) {
  const std::string path = path_ + "/node.json";
  const std::string fresh = path + ".new";
  {
    std::ofstream file(fresh, std::ios::trunc);
    file << nlohmann::json{{"pid", ::getpid()}, {"http", http}, {"peer", peer}, {"id", id}}.dump()
         << "\n";
    if (!file) return Error(Code::kUnavailable, fmt::format("cannot write {}", fresh));
  }
  std::error_code failed;
  std::filesystem::rename(fresh, path, failed);  // readers see the old file or the whole new one
  if (failed)
    return Error(Code::kUnavailable, fmt::format("cannot write {}: {}", path, failed.message()));
  announced_ = true;
  return {};
}

std::string running_node_url(const std::string& data_dir) {
  for (int number = 1; number <= limits::kNodesPerMachine; ++number) {
    std::ifstream file(node_path(data_dir, number) + "/node.json");
    if (!file) continue;
    const nlohmann::json node = nlohmann::json::parse(file, nullptr, false);
    if (!node.is_object() || !node.contains("pid") || !node["pid"].is_number_integer()) continue;
    if (!node.contains("http") || !node["http"].is_string()) continue;
    const auto pid = node["pid"].get<pid_t>();
    if (pid > 0 && (::kill(pid, 0) == 0 || errno == EPERM)) return node["http"].get<std::string>();
  }
  return "";
}

}  // namespace mesh::cli
