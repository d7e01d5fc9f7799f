#pragma once
// Real nodes as child processes on loopback, for tests: started, asked over HTTP, killed by pid.

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::loopback {

using Clock = std::chrono::steady_clock;

// A directory under the system's temporary one, removed at the end.
class ScratchDir {
 public:
  ScratchDir();
  ~ScratchDir();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// One toolkit-mesh process; its output goes to a file. Killed and reaped by the destructor.
class MeshProcess {
 public:
  MeshProcess(const std::string& log_path, const std::vector<std::string>& arguments);
  ~MeshProcess();
  MeshProcess(const MeshProcess&) = delete;
  MeshProcess& operator=(const MeshProcess&) = delete;

  void signal(int number) const;
  // Exit status (128 + signal when killed), or -1 when it still runs at the deadline.
  int wait(std::chrono::milliseconds deadline);
  std::string output() const;
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
  int status_ = -1;
  std::string log_path_;
};

struct Reply {
  int status = 0;  // 0: no answer
  std::string body;
};

// `body` empty: GET. on_body sees the pieces as they come; false stops.
Reply http(const std::string& url, const std::string& body = "",
           const std::function<bool(std::string_view)>& on_body = {});

// Polls until `ready` holds; false at the deadline.
bool eventually(std::chrono::milliseconds deadline, const std::function<bool()>& ready);

// A node with free ports and a data directory of its own, found through its node.json.
class Node {
 public:
  // `arguments` behind the verb and what every node gets.
  Node(const ScratchDir& scratch, const std::string& name, const std::string& verb,
       std::vector<std::string> arguments);
  bool listening(std::chrono::milliseconds deadline = std::chrono::seconds(20));
  const std::string& url() const { return url_; }    // http://127.0.0.1:PORT, after listening()
  const std::string& peer() const { return peer_; }  // 127.0.0.1:PORT
  const std::string& data_dir() const { return data_dir_; }
  MeshProcess& process() const { return *process_; }
  bool ready(std::chrono::milliseconds deadline = std::chrono::seconds(30));
  // {"messages":[one user message], …extra}
  Reply ask(const std::string& question, const std::string& extra = "") const;

 private:
  std::string data_dir_, url_, peer_;
  std::unique_ptr<MeshProcess> process_;
};

// Nodes node0, node1 … of one mesh: the first makes the cluster, the others join it. extra[i]:
// further arguments of node i. A node that does not come up is not listening().
std::vector<std::unique_ptr<Node>> start_mesh(
    const ScratchDir& scratch, int nodes, const std::vector<std::vector<std::string>>& extra = {});

// One sample of a node's /metrics, labels included; 0 where it is missing, -1 without an answer.
double metric(const Node& node, const std::string& name);

// How many descriptors the node's process holds open.
int descriptors(const Node& node);

std::string chat_body(const std::string& question, const std::string& extra = "");

}  // namespace mesh::loopback
