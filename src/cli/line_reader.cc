#include "cli/line_reader.h"

#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>

#include "base/limits.h"

#ifdef MESH_HAVE_LIBEDIT
#include <histedit.h>
#endif

namespace mesh::cli {

#ifdef MESH_HAVE_LIBEDIT

struct LineReader::Editor {
  Editor() : history(::history_init()), edit(::el_init("toolkit-mesh", stdin, stdout, stderr)) {
    std::setlocale(LC_CTYPE, "");
    HistEvent event;
    ::history(history, &event, H_SETSIZE, static_cast<int>(limits::kChatHistoryLines));
    ::el_set(edit, EL_CLIENTDATA, this);
    ::el_set(edit, EL_PROMPT, &Editor::prompt_of);
    ::el_set(edit, EL_EDITOR, "emacs");
    ::el_set(edit, EL_HIST, ::history, history);
  }
  ~Editor() {
    ::el_end(edit);
    ::history_end(history);
  }
  Editor(const Editor&) = delete;
  Editor& operator=(const Editor&) = delete;

  static char* prompt_of(EditLine* edit) {
    void* self = nullptr;
    ::el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<Editor*>(self)->prompt.data();
  }

  Outcome read(const std::string& shown, std::string& line) {
    prompt = shown;
    int count = 0;
    errno = 0;
    const char* text = ::el_gets(edit, &count);
    if (text == nullptr || count <= 0) {
      const bool interrupted = errno == EINTR;
      if (interrupted) ::el_reset(edit);
      return interrupted ? Outcome::kStopped : Outcome::kEnd;
    }
    line.assign(text, static_cast<std::size_t>(count));
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    HistEvent event;
    if (!line.empty()) ::history(history, &event, H_ENTER, text);
    return Outcome::kLine;
  }

  std::string prompt;
  History* history;
  EditLine* edit;
};

#else

struct LineReader::Editor {
  Outcome read(const std::string&, std::string&) { return Outcome::kEnd; }
};

#endif

LineReader::LineReader(bool terminal) : terminal_(terminal) {
#ifdef MESH_HAVE_LIBEDIT
  if (terminal && ::isatty(STDOUT_FILENO) != 0) editor_ = std::make_unique<Editor>();
#endif
}

LineReader::~LineReader() = default;

LineReader::Outcome LineReader::read(const std::string& prompt, std::string& line) {
  return editor_ ? editor_->read(prompt, line) : read_plain(prompt, line);
}

LineReader::Outcome LineReader::read_plain(const std::string& prompt, std::string& line) {
  if (terminal_) {
    std::fputs(prompt.c_str(), stdout);
    std::fflush(stdout);
  }
  for (;;) {
    const std::size_t end = pending_.find('\n');
    if (end != std::string::npos || (at_end_ && !pending_.empty())) {
      line = pending_.substr(0, end);
      pending_.erase(0, end == std::string::npos ? pending_.size() : end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return Outcome::kLine;
    }
    if (at_end_) return Outcome::kEnd;
    char buffer[4096];
    const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) {
      if (!terminal_) continue;
      pending_.clear();
      return Outcome::kStopped;
    }
    at_end_ = got <= 0 || pending_.size() > limits::kPromptBytes;
    if (got > 0) pending_.append(buffer, static_cast<std::size_t>(got));
  }
}

}  // namespace mesh::cli
