#pragma once
// One question to a node and its answer as it comes.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/chat_commands.h"
#include "cli/options.h"

namespace mesh::cli {

struct Answer {
  std::string text;
  std::string error;   // typed failure after the stream began
  std::string finish;  // "stop", "length"
  std::uint64_t tokens = 0;
  double first_token_ms = 0, tokens_per_s = 0;
};

// `on_text` sees the pieces; `go_on` is asked between them and at least every second, false stops:
// then the answer is what has come so far. Errors: those of http_request, unavailable with the
// node's sentence.
Result<Answer> ask_chat(const ChatOptions& options, const std::string& model,
                        const std::vector<ChatMessage>& messages,
                        const std::function<void(std::string_view)>& on_text,
                        const std::function<bool()>& go_on);

// Ids of the models that the node serves.
Result<std::vector<std::string>> served_models(const TargetOptions& target);

}  // namespace mesh::cli
