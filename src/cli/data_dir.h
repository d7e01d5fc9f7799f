#pragma once
// Where a node keeps its keys and tells the other verbs where it listens.

#include <string>

#include "base/result.h"

namespace mesh::cli {

// `asked` (--data-dir), else XDG_DATA_HOME/toolkit-mesh, else ~/.local/share/toolkit-mesh. Not
// created.
Result<std::string> data_directory(const std::string& asked);

// One node per directory: a second node of this machine gets DIR/node-2, and so on. Holds a lock
// until destroyed.
class NodeDirectory {
 public:
  // Creates DIR (mode 0700) and claims the first directory that no running node holds.
  static Result<NodeDirectory> claim(const std::string& data_dir);
  NodeDirectory(NodeDirectory&& other) noexcept;
  NodeDirectory& operator=(NodeDirectory&&) = delete;
  ~NodeDirectory();
  const std::string& path() const { return path_; }
  // Writes node.json: {"pid", "http", "peer", "id"}; removed by the destructor.
  Result<void> announce(const std::string& http, const std::string& peer, const std::string& id);
  // Removes node.json now: the program ends without its destructors.
  void forget();

 private:
  NodeDirectory(std::string path, int lock) : path_(std::move(path)), lock_(lock) {}
  std::string path_;
  int lock_ = -1;
  bool announced_ = false;
};

// "http://host:port" of a node that runs from `data_dir`, or "".
std::string running_node_url(const std::string& data_dir);

}  // namespace mesh::cli
