#include "cli/chat_stream.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/http_client.h"

namespace mesh::cli {
namespace {

using Json = nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

// Server-sent events, cut anywhere, back to events.
class EventParser {
 public:
  EventParser(Answer& answer, const std::function<void(std::string_view)>& on_text)
      : answer_(answer), on_text_(on_text), started_(SteadyClock::now()) {}

  void feed(std::string_view bytes) {
    pending_.append(bytes);
    for (std::size_t end = pending_.find('\n'); end != std::string::npos;
         end = pending_.find('\n')) {
      std::string line = pending_.substr(0, end);
      pending_.erase(0, end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.rfind("data: ", 0) == 0) read_event(line.substr(6));
    }
  }

  void finish() {
    if (answer_.tokens < 2) return;
    const double total = seconds_since_start(), generating = total - first_s_;
    // What arrives in one go says nothing of the pace: then the whole time counts.
    const bool at_once = generating < 0.01;
    answer_.tokens_per_s = static_cast<double>(at_once ? answer_.tokens : answer_.tokens - 1) /
                           std::max(1e-9, at_once ? total : generating);
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
      on_text_(piece);
    }
  }

  Answer& answer_;
  const std::function<void(std::string_view)>& on_text_;
  SteadyClock::time_point started_;
  double first_s_ = 0;
  std::string pending_;
};

std::string request_body(const ChatOptions& options, const std::string& model,
                         const std::vector<ChatMessage>& messages) {
  Json body = {{"stream", true}, {"stream_options", {{"include_usage", true}}}};
  body["messages"] = Json::array();
  for (const ChatMessage& message : messages)
    body["messages"].push_back({{"role", message.role}, {"content", message.content}});
  if (!model.empty()) body["model"] = model;
  if (options.max_tokens.has_value()) body["max_tokens"] = *options.max_tokens;
  if (options.temperature.has_value()) body["temperature"] = *options.temperature;
  if (options.seed.has_value()) body["seed"] = *options.seed;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

Result<Answer> ask_chat(const ChatOptions& options, const std::string& model,
                        const std::vector<ChatMessage>& messages,
                        const std::function<void(std::string_view)>& on_text,
                        const std::function<bool()>& go_on) {
  Answer answer;
  EventParser parser(answer, on_text);
  HttpCall call;
  call.path = options.target.api_prefix + "/chat/completions";
  call.body = request_body(options, model, messages);
  call.on_body = [&](std::string_view bytes) {
    parser.feed(bytes);
    return go_on();
  };
  call.go_on = go_on;
  MESH_ASSIGN_OR_RETURN(const HttpReply reply, http_request(options.target, call));
  parser.finish();
  if (!go_on()) return answer;
  if (reply.status != 200) return Error(Code::kUnavailable, error_sentence(reply));
  return answer;
}

Result<std::vector<std::string>> served_models(const TargetOptions& target) {
  MESH_ASSIGN_OR_RETURN(const HttpReply reply,
                        http_request(target, {.path = target.api_prefix + "/models"}));
  if (reply.status != 200) return Error(Code::kUnavailable, error_sentence(reply));
  std::vector<std::string> names;
  try {
    const Json list = Json::parse(reply.body);
    for (const Json& model : list.at("data")) names.push_back(model.at("id").get<std::string>());
  } catch (const Json::exception&) {
    return Error(Code::kUnavailable, "the answer is not a list of models; is that such a server?");
  }
  return names;
}

}  // namespace mesh::cli
