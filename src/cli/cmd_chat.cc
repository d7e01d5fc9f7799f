// toolkit-mesh chat: a conversation with a running mesh over its own HTTP API.

#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/chat_commands.h"
#include "cli/chat_stream.h"
#include "cli/config_file.h"
#include "cli/console.h"
#include "cli/http_client.h"
#include "cli/line_reader.h"
#include "cli/model_names.h"
#include "cli/options.h"

namespace mesh::cli {
namespace {

using Json = nlohmann::json;

volatile std::sig_atomic_t interrupted = 0;

std::size_t terminal_columns() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

int failed_request(const Error& why) {
  std::fprintf(stderr, "✗ %s\n", why.message.c_str());
  if (why.code == Code::kInvalidArgument) return kUsage;
  return why.message.rfind("no node answers", 0) == 0 ? kUnreachable : kFailed;
}

class Chat {
 public:
  explicit Chat(const ChatOptions& options)
      : options_(options),
        model_(options.model),
        terminal_(::isatty(STDIN_FILENO) != 0),
        stats_(options.stats.value_or(options.once.empty() && terminal_ &&
                                      ::isatty(STDOUT_FILENO) != 0)) {
    forget();
  }

  int once() {
    const Result<void> ready = choose_model();
    if (!ready.ok()) return failed_request(ready.error());
    const Result<bool> ok = turn(options_.once);
    if (interrupted != 0) return kInterrupted;
    if (ok.ok()) return *ok ? kDone : kFailed;
    return failed_request(ok.error());
  }

  int converse() {
    const Result<std::string> hello = greeting();
    if (!hello.ok()) return failed_request(hello.error());
    if (terminal_) std::printf("%s", hello->c_str());
    LineReader reader(terminal_);
    LineJoiner joiner;
    std::string line;
    bool failed = false;
    for (int interrupts = 0;;) {
      std::fflush(stdout);
      interrupted = 0;
      const LineReader::Outcome read = reader.read(joiner.pending() ? ". " : "> ", line);
      if (read == LineReader::Outcome::kStopped) {
        (void)joiner.take();
        if (++interrupts == 2) return std::printf("\n"), kInterrupted;
        std::printf("\n  (Ctrl-C again or Ctrl-D leaves)\n");
        continue;
      }
      interrupts = 0;
      std::optional<std::string> text;
      if (read == LineReader::Outcome::kLine)
        text = joiner.add(line);
      else if (joiner.pending())
        text = joiner.take();
      else
        break;
      if (!text.has_value()) continue;
      const Result<Next> next = handle(parse_chat_input(*text));
      if (!next.ok()) {
        const int code = failed_request(next.error());
        failed = true;
        if (!terminal_) return code == kFailed ? kUnreachable : code;
      } else if (*next == Next::kLeave) {
        break;
      } else if (*next == Next::kFailed) {
        failed = true;
      }
    }
    if (terminal_) std::printf("\n");
    return failed ? kFailed : kDone;
  }

 private:
  enum class Next { kGoOn, kFailed, kLeave };

  void forget() {
    messages_.clear();
    if (!options_.system.empty()) messages_.push_back({"system", options_.system});
  }

  Result<Next> handle(const ChatInput& input) {
    switch (input.command) {
      case ChatCommand::kEmpty:
        break;
      case ChatCommand::kMessage: {
        MESH_ASSIGN_OR_RETURN(const bool ok, turn(input.text));
        return ok ? Next::kGoOn : Next::kFailed;
      }
      case ChatCommand::kHelp:
        std::printf("%s", chat_help().c_str());
        break;
      case ChatCommand::kModel:
        MESH_RETURN_IF_ERROR(show_models(input.text));
        break;
      case ChatCommand::kStats:
        stats_ = !stats_;
        std::printf("  figures %s\n", stats_ ? "on" : "off");
        break;
      case ChatCommand::kSave:
        return save(input.text);
      case ChatCommand::kClear:
        forget();
        std::printf("  (a new conversation)\n");
        break;
      case ChatCommand::kSystem:
        options_.system = input.text;
        if (!messages_.empty() && messages_.front().role == "system")
          messages_.erase(messages_.begin());
        if (!input.text.empty()) messages_.insert(messages_.begin(), {"system", input.text});
        std::printf("  system message %s\n", input.text.empty() ? "removed" : "set");
        break;
      case ChatCommand::kExit:
        return Next::kLeave;
      case ChatCommand::kUnknown:
        std::printf("  %s\n", unknown_command(input.text).c_str());
        break;
    }
    return Next::kGoOn;
  }

  Result<Next> save(const std::string& file) {
    if (file.empty()) {
      std::printf("  /save FILE\n");
      return Next::kGoOn;
    }
    const Result<void> written = write_text_file(file, transcript(messages_, file));
    if (!written.ok()) {
      std::fprintf(stderr, "✗ %s\n", written.error().message.c_str());
      return Next::kFailed;
    }
    std::printf("  %zu messages saved to %s\n", messages_.size(), file.c_str());
    return Next::kGoOn;
  }

  Result<void> show_models(const std::string& wanted) {
    MESH_ASSIGN_OR_RETURN(const std::vector<std::string> names, served_models(options_.target));
    const bool served = std::find(names.begin(), names.end(), wanted) != names.end();
    if (served) model_ = wanted;
    if (!wanted.empty() && !served) {
      const std::string close = closest_model(wanted, names);
      std::printf("  no model '%s' is served%s\n", wanted.c_str(),
                  close.empty() ? "" : ("; did you mean '" + close + "'?").c_str());
    }
    for (const std::string& name : names) {
      const bool chosen = model_.empty() ? &name == &names.front() : name == model_;
      std::printf("  %s %s\n", chosen ? "*" : " ", name.c_str());
    }
    return {};
  }

  // A server that is not ours wants a model named.
  Result<void> choose_model() {
    if (!options_.target.openai || !model_.empty()) return {};
    MESH_ASSIGN_OR_RETURN(const std::vector<std::string> names, served_models(options_.target));
    if (!names.empty()) model_ = names.front();
    return {};
  }

  // Who will answer, said before the first question is typed.
  Result<std::string> greeting() {
    constexpr const char* kHint = "/help lists commands, Ctrl-D leaves.";
    MESH_RETURN_IF_ERROR(choose_model());
    if (options_.target.openai)
      return fmt::format("{} at {}; {}\n", model_, options_.target.url, kHint);
    MESH_ASSIGN_OR_RETURN(const HttpReply reply,
                          http_request(options_.target, {.path = "/mesh/status"}));
    if (reply.status != 200) return Error(Code::kUnavailable, error_sentence(reply));
    const Json status = Json::parse(reply.body, nullptr, false);
    try {
      const std::string model = status.at("model").at("name");
      const std::size_t nodes = status.at("nodes").size();
      std::string text =
          fmt::format("{} on {} node{}; {}\n", model.empty() ? "No model yet" : model, nodes,
                      nodes == 1 ? "" : "s", kHint);
      if (!status.at("mesh").at("ready").get<bool>())
        text += fmt::format("  (not ready: {})\n",
                            status.at("mesh").at("waiting_for").get<std::string>());
      return text;
    } catch (const Json::exception&) {
      return Error(Code::kUnavailable,
                   "the answer is not a mesh status; is that a toolkit-mesh node?");
    }
  }

  // At the right of the answer's last line where there is room, else below it.
  void print_stats(const Answer& answer) {
    std::string text = stats_text(answer.first_token_ms, answer.tokens_per_s);
    const std::string last = answer.text.substr(answer.text.rfind('\n') + 1);
    const std::size_t columns = terminal_columns(), used = shown_width(last);
    const std::size_t width = shown_width(text);
    const bool dim = colour_wanted(STDOUT_FILENO);
    if (columns > 0 && used + width + 3 < columns)
      std::printf(
          "%s", std::string(
                    std::min(columns - 1 - width, std::max<std::size_t>(used, 48)) - used + 1, ' ')
                    .c_str());
    else
      std::printf("\n  ");
    std::printf("%s%s%s", dim ? "\x1b[2m" : "", text.c_str(), dim ? "\x1b[0m" : "");
  }

  // One question and its answer; false when the answer failed.
  Result<bool> turn(const std::string& question) {
    messages_.push_back({"user", question});
    const Result<Answer> answer = ask_chat(
        options_, model_, messages_,
        [](std::string_view piece) {
          std::fwrite(piece.data(), 1, piece.size(), stdout);
          std::fflush(stdout);
        },
        [] { return interrupted == 0; });
    if (!answer.ok() || !answer->error.empty() || (interrupted != 0 && answer->text.empty()))
      messages_.pop_back();
    if (!answer.ok()) return answer.error();
    if (!answer->error.empty()) {
      std::printf("\n");
      std::fflush(stdout);
      std::fprintf(stderr, "✗ %s\n", answer->error.c_str());
      return false;
    }
    if (stats_ && interrupted == 0) print_stats(*answer);
    std::printf("\n");
    if (interrupted != 0) std::printf("  (stopped)\n");
    if (answer->finish == "length") std::printf("  (cut off: the token limit was reached)\n");
    if (!answer->text.empty()) messages_.push_back({"assistant", answer->text});
    return true;
  }

  ChatOptions options_;
  std::string model_;
  const bool terminal_;
  bool stats_;
  std::vector<ChatMessage> messages_;
};

}  // namespace

int run_chat(const ChatOptions& options) {
  struct sigaction action {};
  action.sa_handler = [](int) {
    if (interrupted != 0) ::_exit(kInterrupted);
    interrupted = 1;
  };
  ::sigaction(SIGINT, &action, nullptr);  // without SA_RESTART: reading a line ends, too
  Chat chat(options);
  return options.once.empty() ? chat.converse() : chat.once();
}

}  // namespace mesh::cli
