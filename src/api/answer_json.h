#pragma once
// The JSON of chat and plain completions, whole or as the events of a stream. Written as text: a
// token costs an escape and a few copies, never a document.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "node/gateway.h"

namespace mesh::api {

enum class AnswerKind { kChat, kText };

// What all chunks of an answer share.
struct AnswerIdentity {
  AnswerKind kind = AnswerKind::kChat;
  std::string id;  // "chatcmpl-…" or "cmpl-…"
  std::int64_t created = 0;
  std::string model;
  std::string fingerprint;  // "fp_…"
};

// "fp_" and 16 digits of the numeric class and the weights: equal ones answer bit for bit alike.
std::string system_fingerprint(const node::MeshStatus& status);

// Log-probabilities of one choice, gathered token by token. Chat: {"content":[…],"refusal":null},
// whose "bytes" are exact where "token" has to show U+FFFD. Plain completions: the legacy shape
// {"tokens","token_logprobs","top_logprobs","text_offset"} with tokens that are no valid UTF-8 as
// "bytes:\xNN…", the chosen token among the alternatives, and offsets in characters of the choice.
class ScoreText {
 public:
  // `top`: alternatives of each token that are shown, at most.
  ScoreText(AnswerKind kind, std::uint32_t top) : kind_(kind), top_(top) {}
  void add(const node::TokenText& token);
  bool empty() const { return count_ == 0; }
  // The object of all tokens since the last take().
  std::string take();

 private:
  void add_chat(const node::TokenText& token);
  void add_legacy(const node::TokenText& token);

  AnswerKind kind_;
  std::uint32_t top_;
  std::size_t count_ = 0;
  std::string content_;                           // chat
  std::string tokens_, scores_, tops_, offsets_;  // legacy
  std::size_t characters_ = 0;                    // begun before the next token
};

struct ChoiceText {
  std::string text;
  std::string logprobs = "null";  // JSON
  node::FinishReason reason = node::FinishReason::kStop;
  std::string stop_reason = "null";  // JSON
};

// "timings" of a whole answer or of a stream's last chunk with a choice, named as llama.cpp does.
struct AnswerTimings {
  node::Usage usage;
  node::Timings timings;
};

class AnswerWriter {
 public:
  explicit AnswerWriter(const AnswerIdentity& identity);

  // Server-sent events, "data: …\n\n" each. `usage`: JSON of the member, "" for none.
  std::string role_event(std::uint32_t choice, std::string_view usage) const;  // chat only
  std::string text_event(std::uint32_t choice, std::string_view text, std::string_view logprobs,
                         std::string_view usage) const;
  std::string finish_event(std::uint32_t choice, const ChoiceText& end, std::string_view usage,
                           const std::optional<AnswerTimings>& timings) const;
  std::string usage_event(const node::Usage& usage) const;

  // The body of an answer that is not streamed.
  std::string whole(const std::vector<ChoiceText>& choices, const AnswerTimings& timings) const;

 private:
  std::string begin(std::uint32_t choice, std::size_t more) const;
  void end(std::string& out, std::string_view usage) const;

  AnswerKind kind_;
  std::string chunk_head_;  // up to and with "choices":[
  std::string whole_head_;
};

constexpr std::string_view kDoneEvent = "data: [DONE]\n\n";

std::string usage_json(const node::Usage& usage);
// What ended a choice: a string of the request's `stop`, a token id, or null.
std::string stop_reason_json(std::string_view stop, const std::vector<std::string>& stop_strings);
// Value of a Server-Timing header: "queue;dur=1.2, prefill;dur=20, decode;dur=100".
std::string server_timing(const node::Timings& timings);

}  // namespace mesh::api
