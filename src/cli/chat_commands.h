#pragma once
// What is typed in a conversation: questions, commands, and lines that go on. Pure.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mesh::cli {

enum class ChatCommand {
  kEmpty,
  kMessage,
  kHelp,
  kModel,
  kStats,
  kSave,
  kClear,
  kSystem,
  kExit,
  kUnknown
};

struct ChatInput {
  ChatCommand command = ChatCommand::kEmpty;
  std::string text;  // the message, the command's argument, or for kUnknown what was typed
};

// "/save a.md" → kSave, "a.md"; "//x" is the message "/x"; /new and /quit are /clear and /exit.
ChatInput parse_chat_input(const std::string& text);
// For kUnknown: "no command '/hlep'; did you mean '/help'?".
std::string unknown_command(const std::string& typed);
std::string chat_help();

// Lines that end in a backslash go on in the next one.
class LineJoiner {
 public:
  // The whole text once its last line is here.
  std::optional<std::string> add(const std::string& line);
  bool pending() const { return pending_; }
  std::string take();  // what is there without its last line

 private:
  std::string text_;
  bool pending_ = false;
};

struct ChatMessage {
  std::string role, content;
};

// For /save: a JSON array of messages when the name ends in .json, else Markdown.
std::string transcript(const std::vector<ChatMessage>& messages, std::string_view file_name);

// "[first token 38 ms, 410 tok/s]"; the rate is left out for a single token.
std::string stats_text(double first_token_ms, double tokens_per_s);

}  // namespace mesh::cli
