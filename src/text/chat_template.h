#pragma once
// A model's chat template: messages to the prompt's text.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/span.h"

namespace mesh::text {

// What one chat gives to its template. JSON texts come from the caller: everything in them is
// Origin::kCaller.
struct ChatInputs {
  std::string
      messages_json;  // a list of objects; content that is a list of parts is handed over as it is
  std::string tools_json;  // a list, or empty: the variable `tools` is none
  bool add_generation_prompt = false;
  // The last message, the assistant's, is the beginning of the answer: the prompt ends where its
  // content does, without what the template writes behind. Not with add_generation_prompt.
  bool continue_final = false;
  std::string extra_json;  // an object of further variables (enable_thinking …), or empty; it
                           // cannot replace the others
  std::string bos_token;   // the model's spellings, Origin::kTemplate; empty: undefined
  std::string eos_token;
  std::int64_t unix_seconds = 0;  // what strftime_now tells, in UTC
};

// Immutable: many threads may render at once. Source: the chat templates of Hugging
// Face transformers.
class ChatTemplate {
 public:
  // Errors: invalid_argument "chat template: line N: …".
  static Result<std::unique_ptr<ChatTemplate>> parse(std::string_view source);
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // The prompt with the origin of each part. Errors: invalid_argument with the template's own
  // message when it raises, with the line when it fails, with the member when a JSON text is wrong,
  // and when the last message cannot be continued; resource_exhausted at a bound.
  Result<SpanText> render(const ChatInputs& inputs) const;

 private:
  struct State;
  explicit ChatTemplate(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mesh::text
