#include "mesh_process.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

extern char** environ;

namespace mesh::loopback {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Transfer {
  Reply reply;
  const std::function<bool(std::string_view)>* on_body = nullptr;
};

std::size_t take(char* data, std::size_t size, std::size_t count, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  transfer.reply.body.append(data, size * count);
  const bool go_on = !*transfer.on_body || (*transfer.on_body)({data, size * count});
  return go_on ? size * count : 0;
}

}  // namespace

ScratchDir::ScratchDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "mesh-test-XXXXXX").string();
  path_ = ::mkdtemp(pattern.data());
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

MeshProcess::MeshProcess(const std::string& log_path, const std::vector<std::string>& arguments)
    : log_path_(log_path) {
  std::vector<std::string> all = {MESH_BINARY};
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& argument : all) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND,
                                   0600);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  if (::posix_spawn(&pid_, MESH_BINARY, &files, nullptr, argv.data(), environ) != 0) pid_ = -1;
  posix_spawn_file_actions_destroy(&files);
}

MeshProcess::~MeshProcess() {
  if (reaped_ || pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void MeshProcess::signal(int number) const {
  if (!reaped_ && pid_ > 0) ::kill(pid_, number);
}

int MeshProcess::wait(std::chrono::milliseconds deadline) {
  eventually(deadline, [this] {
    int status = 0;
    if (reaped_ || pid_ <= 0) return true;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
    reaped_ = true;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return true;
  });
  return reaped_ ? status_ : -1;
}

std::string MeshProcess::output() const {
  return read_file(log_path_);
}

bool eventually(std::chrono::milliseconds deadline, const std::function<bool()>& ready) {
  const Clock::time_point end = Clock::now() + deadline;
  while (!ready()) {
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

Reply http(const std::string& url, const std::string& body,
           const std::function<bool(std::string_view)>& on_body) {
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(
      curl_slist_append(nullptr, "Content-Type: application/json"), curl_slist_free_all);
  Transfer transfer{{}, &on_body};
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_TIMEOUT_MS, 60'000L);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, take);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &transfer);
  if (!body.empty()) {
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.c_str());
  }
  const CURLcode code = curl_easy_perform(curl.get());
  long status = 0;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &status);
  if (code == CURLE_OK || code == CURLE_WRITE_ERROR || status != 0)
    transfer.reply.status = static_cast<int>(status);
  return transfer.reply;
}

std::string chat_body(const std::string& question, const std::string& extra) {
  return R"({"messages":[{"role":"user","content":)" + nlohmann::json(question).dump() + "}]" +
         (extra.empty() ? "" : "," + extra) + "}";
}

Node::Node(const ScratchDir& scratch, const std::string& name, const std::string& verb,
           std::vector<std::string> arguments)
    : data_dir_(scratch.path() + "/" + name) {
  std::vector<std::string> all = {verb,     "--data-dir", data_dir_,   "--name", name,
                                  "--port", "0",          "--threads", "1"};
  if (verb != "serve") {
    all.push_back("--listen");
    all.push_back("127.0.0.1:0");
  }
  all.insert(all.end(), arguments.begin(), arguments.end());
  process_ = std::make_unique<MeshProcess>(scratch.path() + "/" + name + ".log", all);
}

bool Node::listening(std::chrono::milliseconds deadline) {
  return eventually(deadline,
                    [this] {
                      const nlohmann::json node = nlohmann::json::parse(
                          read_file(data_dir_ + "/node.json"), nullptr, false);
                      if (!node.is_object())
                        return process_->wait(std::chrono::milliseconds(0)) >= 0;
                      url_ = node["http"];
                      peer_ = node["peer"];
                      return true;
                    }) &&
         !url_.empty();
}

bool Node::ready(std::chrono::milliseconds deadline) {
  return eventually(deadline, [this] { return http(url_ + "/ready").status == 200; });
}

Reply Node::ask(const std::string& question, const std::string& extra) const {
  return http(url_ + "/v1/chat/completions", chat_body(question, extra));
}

std::vector<std::unique_ptr<Node>> start_mesh(const ScratchDir& scratch, int nodes,
                                              const std::vector<std::vector<std::string>>& extra) {
  std::vector<std::unique_ptr<Node>> mesh;
  const std::string count = std::to_string(nodes);
  for (std::size_t i = 0; i < static_cast<std::size_t>(nodes); ++i) {
    std::vector<std::string> arguments = i < extra.size() ? extra[i] : std::vector<std::string>{};
    arguments.insert(arguments.end(), {"--min-nodes", count});
    if (i > 0)
      arguments.insert(arguments.end(), {"--peer", mesh[0]->peer(), "--cluster-key-file",
                                         mesh[0]->data_dir() + "/cluster.key"});
    mesh.push_back(std::make_unique<Node>(scratch, "node" + std::to_string(i),
                                          i == 0 ? "run" : "join", arguments));
    if (!mesh.back()->listening())
      std::fprintf(stderr, "node%zu does not listen:\n%s\n", i,
                   mesh.back()->process().output().c_str());
  }
  return mesh;
}

double metric(const Node& node, const std::string& name) {
  const Reply reply = http(node.url() + "/metrics");
  if (reply.status != 200) return -1;
  std::istringstream lines(reply.body);
  for (std::string line; std::getline(lines, line);)
    if (line.rfind(name + " ", 0) == 0) return std::stod(line.substr(name.size() + 1));
  return 0;
}

int descriptors(const Node& node) {
  std::error_code ignored;
  const std::filesystem::directory_iterator all(
      "/proc/" + std::to_string(node.process().pid()) + "/fd", ignored);
  return static_cast<int>(std::distance(begin(all), end(all)));
}

}  // namespace mesh::loopback
