// toolkit-mesh chat: a conversation with a running mesh over its own HTTP API.

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/http_client.h"
#include "cli/options.h"

namespace mesh::cli {
namespace {

using Json = nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

volatile std::sig_atomic_t interrupted = 0;

struct Answer {
  std::string text;
  std::string error;   // typed failure after the stream began
  std::string finish;  // "stop", "length"
  std::uint64_t tokens = 0;
  double first_token_ms = 0, tokens_per_s = 0;
};

// Server-sent events, cut anywhere, back to events.
class EventParser {
 public:
  explicit EventParser(Answer& answer) : answer_(answer), started_(SteadyClock::now()) {}

  bool feed(std::string_view bytes) {
    pending_.append(bytes);
    for (std::size_t end = pending_.find('\n'); end != std::string::npos;
         end = pending_.find('\n')) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.rfind("data: ", 0) == 0) read_event(line.substr(6));
    }
    return interrupted == 0;
  }

  void finish() {
    const double total = seconds_since_start();
    if (answer_.tokens > 1)
      answer_.tokens_per_s =
          static_cast<double>(answer_.tokens - 1) / std::max(1e-9, total - first_s_);
  }

 private:
  double seconds_since_start() const {
    return std::chrono::duration<double>(SteadyClock::now() - started_).count();
  }

  // Called by a C library, which no exception may pass.
  void read_event(const std::string& data) {
    try {
      event(data);
    } catch (const Json::exception& error) {
      answer_.error = std::string("the node speaks another stream format: ") + error.what();
    }
  }

  void event(const std::string& data) {
    if (data == "[DONE]") return;
    const Json json = Json::parse(data, nullptr, false);
    if (!json.is_object()) return;
    if (json.contains("error")) {
      answer_.error = json["error"].value("message", "unknown error");
      return;
    }
    if (json.contains("usage") && json["usage"].is_object())
      answer_.tokens = json["usage"].value("completion_tokens", std::uint64_t{0});
    for (const Json& choice : json.value("choices", Json::array())) {
      if (choice.contains("finish_reason") && choice["finish_reason"].is_string())
        answer_.finish = choice["finish_reason"];
      const Json delta = choice.value("delta", Json::object());
      if (!delta.contains("content") || !delta["content"].is_string()) continue;
      const std::string piece = delta["content"];
      if (piece.empty()) continue;
      if (answer_.text.empty()) {
        first_s_ = seconds_since_start();
        answer_.first_token_ms = first_s_ * 1e3;
      }
      answer_.text += piece;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    }
  }

  Answer& answer_;
  SteadyClock::time_point started_;
  double first_s_ = 0;
  std::string pending_;
};

Result<Answer> ask(const ChatOptions& options, const Json& messages) {
  Json body = {
      {"messages", messages}, {"stream", true}, {"stream_options", {{"include_usage", true}}}};
  if (options.max_tokens.has_value()) body["max_tokens"] = *options.max_tokens;
  Answer answer;
  EventParser parser(answer);
  MESH_ASSIGN_OR_RETURN(const HttpReply reply,
                        http_request(options.target, "/v1/chat/completions",
                                     body.dump(-1, ' ', false, Json::error_handler_t::replace),
                                     [&](std::string_view bytes) { return parser.feed(bytes); }));
  parser.finish();
  if (reply.status != 200) return Error(Code::kUnavailable, error_sentence(reply));
  return answer;
}

void print_stats(const Answer& answer) {
  std::printf("  [%llu tokens, first after %.0f ms, %.0f tok/s]\n",
              static_cast<unsigned long long>(answer.tokens), answer.first_token_ms,
              answer.tokens_per_s);
}

// One turn; false when the answer failed.
Result<bool> turn(const ChatOptions& options, Json& messages, const std::string& question,
                  bool stats) {
  messages.push_back({{"role", "user"}, {"content", question}});
  Result<Answer> answer = ask(options, messages);
  if (!answer.ok()) {
    messages.erase(messages.size() - 1);
    return answer.error();
  }
  std::printf("\n");
  if (!answer->error.empty()) {
    std::fprintf(stderr, "✗ %s\n", answer->error.c_str());
    messages.erase(messages.size() - 1);
    return false;
  }
  if (answer->finish == "length") std::printf("  (cut off: the token limit was reached)\n");
  if (stats) print_stats(*answer);
  messages.push_back({{"role", "assistant"}, {"content", answer->text}});
  return true;
}

constexpr const char* kHelp =
    "  /new forgets the conversation, /stats switches figures on and off, /quit leaves\n";

int failed_request(const Error& why) {
  std::fprintf(stderr, "✗ %s\n", why.message.c_str());
  if (why.code == Code::kInvalidArgument) return kUsage;
  return why.message.rfind("no node answers", 0) == 0 ? kUnreachable : kFailed;
}

// Who will answer, said before the first question is typed.
Result<std::string> greeting(const TargetOptions& target) {
  MESH_ASSIGN_OR_RETURN(const HttpReply reply, http_request(target, "/mesh/status"));
  if (reply.status != 200) return Error(Code::kUnavailable, error_sentence(reply));
  const Json status = Json::parse(reply.body, nullptr, false);
  try {
    const std::string model = status.at("model").at("name");
    const std::size_t nodes = status.at("nodes").size();
    std::string text =
        fmt::format("{} on {} node{}; /help lists commands, Ctrl-D leaves.\n",
                    model.empty() ? "No model yet" : model, nodes, nodes == 1 ? "" : "s");
    if (!status.at("mesh").at("ready").get<bool>())
      text += fmt::format("  (not ready: {})\n",
                          status.at("mesh").at("waiting_for").get<std::string>());
    return text;
  } catch (const Json::exception&) {
    return Error(Code::kUnavailable,
                 "the answer is not a mesh status; is that a toolkit-mesh node?");
  }
}

int converse(ChatOptions options) {
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  const Result<std::string> hello = greeting(options.target);
  if (!hello.ok()) return failed_request(hello.error());
  if (terminal) std::printf("%s", hello->c_str());
  Json messages = Json::array();
  std::string line;
  bool failed = false;
  while (true) {
    if (terminal) {
      std::printf("> ");
      std::fflush(stdout);
    }
    interrupted = 0;
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    if (line == "/quit" || line == "/exit") break;
    if (line == "/help") {
      std::printf("%s", kHelp);
    } else if (line == "/new") {
      messages = Json::array();
    } else if (line == "/stats") {
      options.stats = !options.stats;
    } else if (line.front() == '/') {
      std::printf("  no command '%s'\n%s", line.c_str(), kHelp);
    } else {
      const Result<bool> ok = turn(options, messages, line, options.stats);
      if (!ok.ok()) {
        std::fprintf(stderr, "✗ %s\n", ok.error().message.c_str());
        failed = true;
        if (!terminal) return kUnreachable;
      }
    }
  }
  if (terminal) std::printf("\n");
  return failed ? kFailed : kDone;
}

}  // namespace

int run_chat(const ChatOptions& options) {
  std::signal(SIGINT, [](int) {
    if (interrupted != 0) ::_exit(kInterrupted);
    interrupted = 1;
  });
  if (options.once.empty()) return converse(options);
  Json messages = Json::array();
  const Result<bool> ok = turn(options, messages, options.once, options.stats);
  if (interrupted != 0) return kInterrupted;
  if (ok.ok()) return *ok ? kDone : kFailed;
  return failed_request(ok.error());
}

}  // namespace mesh::cli
