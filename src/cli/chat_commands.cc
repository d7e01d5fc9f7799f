#include "cli/chat_commands.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "cli/suggest.h"

namespace mesh::cli {
namespace {

struct Name {
  std::string_view name;
  ChatCommand command;
  std::string_view argument, help;  // help "": another name of the one before
};

constexpr Name kNames[] = {
    {"/help", ChatCommand::kHelp, "", "this list"},
    {"/model", ChatCommand::kModel, "[MODEL]", "models that are served; which one answers"},
    {"/stats", ChatCommand::kStats, "", "figures after each answer: on or off"},
    {"/save", ChatCommand::kSave, "FILE", "the conversation as Markdown, or as JSON for *.json"},
    {"/clear", ChatCommand::kClear, "", "forgets the conversation"},
    {"/new", ChatCommand::kClear, "", ""},
    {"/system", ChatCommand::kSystem, "[TEXT]", "sets the system message; without TEXT removes it"},
    {"/exit", ChatCommand::kExit, "", "leaves, as does Ctrl-D"},
    {"/quit", ChatCommand::kExit, "", ""},
};

std::string trimmed(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

}  // namespace

ChatInput parse_chat_input(const std::string& text) {
  const std::string typed = trimmed(text);
  if (typed.empty()) return {};
  if (typed.front() != '/') return {ChatCommand::kMessage, text};
  if (typed.size() > 1 && typed[1] == '/') return {ChatCommand::kMessage, typed.substr(1)};
  const std::size_t end = std::min(typed.find_first_of(" \t\n"), typed.size());
  const std::string word = typed.substr(0, end);
  for (const Name& name : kNames)
    if (name.name == word) return {name.command, trimmed(typed.substr(end))};
  return {ChatCommand::kUnknown, word};
}

std::string unknown_command(const std::string& typed) {
  std::vector<std::string> words;
  for (const Name& name : kNames) words.emplace_back(name.name);
  const std::string close = closest_word(typed, words);
  return close.empty()
             ? fmt::format("no command '{}'; /help lists them, // begins a message with /", typed)
             : fmt::format("no command '{}'; did you mean '{}'?", typed, close);
}

std::string chat_help() {
  std::string out;
  for (const Name& name : kNames)
    if (!name.help.empty())
      out += fmt::format("  {:<17}{}\n", fmt::format("{} {}", name.name, name.argument), name.help);
  return out + "  A line that ends in \\ goes on in the next one. Ctrl-C stops an answer.\n";
}

std::optional<std::string> LineJoiner::add(const std::string& line) {
  if (!line.empty() && line.back() == '\\') {
    text_ += line.substr(0, line.size() - 1) + "\n";
    pending_ = true;
    return std::nullopt;
  }
  text_ += line;
  return take();
}

std::string LineJoiner::take() {
  pending_ = false;
  return std::exchange(text_, "");
}

std::string transcript(const std::vector<ChatMessage>& messages, std::string_view file_name) {
  if (file_name.size() >= 5 && file_name.substr(file_name.size() - 5) == ".json") {
    nlohmann::ordered_json out = nlohmann::ordered_json::array();
    for (const ChatMessage& message : messages)
      out.push_back({{"role", message.role}, {"content", message.content}});
    return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  }
  std::string out;
  for (const ChatMessage& message : messages)
    out += fmt::format("{}## {}\n\n{}\n", out.empty() ? "" : "\n", message.role, message.content);
  return out;
}

std::string stats_text(double first_token_ms, double tokens_per_s) {
  const std::string first = fmt::format("[first token {:.0f} ms", first_token_ms);
  return tokens_per_s > 0 ? fmt::format("{}, {:.0f} tok/s]", first, tokens_per_s) : first + "]";
}

}  // namespace mesh::cli
