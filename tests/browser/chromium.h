#pragma once
// Headless Chromium with one page, driven over the DevTools protocol on a pair of pipes (JSON texts
// that end in a zero byte). https://chromedevtools.github.io/devtools-protocol/

#include <sys/types.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace mesh::browser {

class Chromium {
 public:
  using Json = nlohmann::json;

  static bool installed();

  // `profile_dir`: an empty directory for the profile; the log goes to `profile_dir`.log.
  explicit Chromium(const std::string& profile_dir);
  ~Chromium();  // kills the whole process group
  Chromium(const Chromium&) = delete;
  Chromium& operator=(const Chromium&) = delete;

  // Throws std::runtime_error when the browser answers with an error, ends, or says nothing for 20
  // s.
  Json call(const std::string& method, const Json& params = Json::object());
  void open(const std::string& url);
  // The value of a JavaScript expression; promises are awaited.
  Json evaluate(const std::string& expression);
  // Polls until the expression is true; false at the deadline.
  bool eventually(const std::string& expression, std::chrono::milliseconds deadline);
  void type(const std::string& text);  // into the focused element
  void press_enter();
  void resize(int width, int height, bool phone);
  void dark(bool on);
  void screenshot(const std::string& path);

  // Console errors, uncaught exceptions, policy violations and failed loads since the last call.
  std::vector<std::string> take_problems();

 private:
  Json read_message();
  void on_event(const Json& message);

  pid_t pid_ = -1;
  int write_fd_ = -1, read_fd_ = -1;
  std::string pending_, session_;
  int last_id_ = 0;
  std::vector<std::string> problems_;
};

}  // namespace mesh::browser
