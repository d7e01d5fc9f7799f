#include "chromium.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace mesh::browser {
namespace {

constexpr const char* kProgram = "/usr/bin/chromium";

std::string decode_base64(const std::string& text) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  unsigned bits = 0, held = 0;
  for (char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) break;  // the padding
    bits = (bits << 6 | static_cast<unsigned>(digit)) & 0xFFFFFFu;
    held += 6;
    if (held < 8) continue;
    held -= 8;
    out.push_back(static_cast<char>(bits >> held & 0xFFu));
  }
  return out;
}

}  // namespace

bool Chromium::installed() {
  return ::access(kProgram, X_OK) == 0;
}

Chromium::Chromium(const std::string& profile_dir) {
  ::signal(SIGPIPE, SIG_IGN);
  std::filesystem::create_directories(profile_dir);
  std::array<int, 2> to{}, from{};
  if (::pipe2(to.data(), O_CLOEXEC) != 0 || ::pipe2(from.data(), O_CLOEXEC) != 0)
    throw std::runtime_error("no pipes");
  // Out of the way of the descriptors 3 and 4, which the browser expects.
  const int its_input = ::fcntl(to[0], F_DUPFD_CLOEXEC, 10);
  const int its_output = ::fcntl(from[1], F_DUPFD_CLOEXEC, 10);
  write_fd_ = ::fcntl(to[1], F_DUPFD_CLOEXEC, 10);
  read_fd_ = ::fcntl(from[0], F_DUPFD_CLOEXEC, 10);
  for (int fd : {to[0], to[1], from[0], from[1]}) ::close(fd);

  std::vector<std::string> arguments = {kProgram,
                                        "--headless",
                                        "--no-sandbox",
                                        "--disable-gpu",
                                        "--disable-quic",
                                        "--disable-dev-shm-usage",
                                        "--no-first-run",
                                        "--disable-background-networking",
                                        "--disable-component-update",
                                        "--disable-sync",
                                        "--no-proxy-server",
                                        "--hide-scrollbars",
                                        "--remote-debugging-pipe",
                                        "--user-data-dir=" + profile_dir,
                                        "about:blank"};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const std::string log = profile_dir + ".log";
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  posix_spawn_file_actions_adddup2(&files, its_input, 3);
  posix_spawn_file_actions_adddup2(&files, its_output, 4);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  if (::posix_spawn(&pid_, kProgram, &files, &attributes, argv.data(), environ) != 0) pid_ = -1;
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  ::close(its_input);
  ::close(its_output);

  const Json target = call("Target.createTarget", {{"url", "about:blank"}});
  session_ = call("Target.attachToTarget",
                  {{"targetId", target["targetId"]}, {"flatten", true}})["sessionId"];
  for (const char* domain : {"Page", "Runtime", "Log", "Network"})
    call(std::string(domain) + ".enable");
}

Chromium::~Chromium() {
  ::close(write_fd_);
  ::close(read_fd_);
  if (pid_ <= 0) return;
  ::kill(-pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

Chromium::Json Chromium::read_message() {
  std::size_t end = 0;
  while ((end = pending_.find('\0')) == std::string::npos) {
    pollfd wanted{read_fd_, POLLIN, 0};
    if (::poll(&wanted, 1, 20'000) <= 0) throw std::runtime_error("the browser says nothing");
    std::array<char, 65536> part;
    const ssize_t count = ::read(read_fd_, part.data(), part.size());
    if (count <= 0) throw std::runtime_error("the browser ended");
    pending_.append(part.data(), static_cast<std::size_t>(count));
  }
  Json message = Json::parse(pending_.substr(0, end));
  pending_.erase(0, end + 1);
  return message;
}

Chromium::Json Chromium::call(const std::string& method, const Json& params) {
  const int id = ++last_id_;
  Json message = {{"id", id}, {"method", method}, {"params", params}};
  if (!session_.empty()) message["sessionId"] = session_;
  const std::string text = message.dump() + '\0';
  for (std::size_t at = 0; at < text.size();) {
    const ssize_t count = ::write(write_fd_, text.data() + at, text.size() - at);
    if (count <= 0) throw std::runtime_error("the browser ended");
    at += static_cast<std::size_t>(count);
  }
  while (true) {
    Json answer = read_message();
    if (!answer.contains("id")) {
      on_event(answer);
      continue;
    }
    if (answer["id"] != id) continue;
    if (answer.contains("error"))
      throw std::runtime_error(method + ": " + answer["error"].value("message", ""));
    return answer["result"];
  }
}

void Chromium::on_event(const Json& message) {
  const std::string method = message.value("method", "");
  if (!message.contains("params")) return;
  const Json& params = message["params"];
  if (method == "Runtime.exceptionThrown") {
    problems_.push_back("exception: " + params["exceptionDetails"].dump());
  } else if (method == "Runtime.consoleAPICalled" &&
             (params["type"] == "error" || params["type"] == "warning")) {
    problems_.push_back("console: " + params["args"].dump());
  } else if (method == "Log.entryAdded" && params["entry"]["level"] == "error") {
    problems_.push_back("log: " + params["entry"].value("text", "") + " " +
                        params["entry"].value("url", ""));
  }
}

void Chromium::open(const std::string& url) {
  call("Page.navigate", {{"url", url}});
}

Chromium::Json Chromium::evaluate(const std::string& expression) {
  const Json answer =
      call("Runtime.evaluate",
           {{"expression", expression}, {"returnByValue", true}, {"awaitPromise", true}});
  if (answer.contains("exceptionDetails"))
    throw std::runtime_error(expression + ": " + answer["exceptionDetails"].dump());
  return answer["result"].contains("value") ? answer["result"]["value"] : Json();
}

bool Chromium::eventually(const std::string& expression, std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (evaluate(expression) != true) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

void Chromium::type(const std::string& text) {
  call("Input.insertText", {{"text", text}});
}

void Chromium::press_enter() {
  for (const char* type : {"keyDown", "keyUp"})
    call("Input.dispatchKeyEvent", {{"type", type},
                                    {"key", "Enter"},
                                    {"code", "Enter"},
                                    {"windowsVirtualKeyCode", 13},
                                    {"text", std::string_view(type) == "keyDown" ? "\r" : ""}});
}

void Chromium::resize(int width, int height, bool phone) {
  call("Emulation.setDeviceMetricsOverride", {{"width", width},
                                              {"height", height},
                                              {"deviceScaleFactor", phone ? 2 : 1},
                                              {"mobile", phone}});
}

void Chromium::dark(bool on) {
  call("Emulation.setEmulatedMedia",
       {{"features",
         Json::array({{{"name", "prefers-color-scheme"}, {"value", on ? "dark" : "light"}}})}});
}

void Chromium::screenshot(const std::string& path) {
  const Json shot = call("Page.captureScreenshot", {{"format", "png"}});
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << decode_base64(shot["data"]);
}

std::vector<std::string> Chromium::take_problems() {
  call("Runtime.evaluate", {{"expression", "0"}});  // events before it have arrived then
  return std::exchange(problems_, {});
}

}  // namespace mesh::browser
