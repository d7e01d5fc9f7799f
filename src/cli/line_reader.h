#pragma once
// Lines typed at a terminal, with editing and history where libedit was found when this was built,
// or lines from a pipe.

#include <memory>
#include <string>

namespace mesh::cli {

class LineReader {
 public:
  enum class Outcome { kLine, kEnd, kStopped };

  // SIGINT must have a handler without SA_RESTART for kStopped to be seen.
  explicit LineReader(bool terminal);
  ~LineReader();

  // Shows the prompt on a terminal only. `line` comes without its line break.
  Outcome read(const std::string& prompt, std::string& line);

 private:
  Outcome read_plain(const std::string& prompt, std::string& line);
  struct Editor;
  const bool terminal_;
  std::unique_ptr<Editor> editor_;  // null: plain reading
  std::string pending_;             // read but not given out
  bool at_end_ = false;
};

}  // namespace mesh::cli
