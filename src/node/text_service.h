#pragma once
// From prompts to token ids and back, for the model a node serves. Immutable after creation; safe
// on any thread.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "formats/model_files.h"
#include "node/gateway.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace mesh::node {

class TextService {
 public:
  // A model without a chat template serves everything but chats. Errors: not_found when the model
  // has no tokenizer, corrupt / unsupported from the parsers.
  static Result<std::shared_ptr<const TextService>> create(const formats::ModelFiles& files);

  // A chat is rendered (caller text can never become a control token); a plain text is the caller's
  // whole prompt, so control tokens in it are recognised, and BOS is put before it if
  // `add_special`; ids are checked against the model's `vocabulary`. Errors: invalid_argument with
  // the template's or the tokenizer's sentence, or with the id that is unknown.
  Result<std::vector<TokenId>> encode(const PromptInput& prompt, std::uint32_t vocabulary,
                                      std::int64_t unix_seconds, bool add_special = true) const;
  // What an echo shows of a prompt: the caller's own text, else what its ids decode to.
  std::string shown_prompt(const PromptInput& prompt, std::span<const TokenId> ids) const;

  // Without scores, one for each id.
  std::vector<TokenText> token_texts(std::span<const TokenId> ids) const;
  // Special tokens are spelt out. Errors: invalid_argument with the id that is unknown.
  Result<std::string> decode(std::span<const TokenId> ids) const;
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  TextService() = default;
  Result<std::vector<TokenId>> encode_chat(const ChatPrompt& chat, std::int64_t unix_seconds) const;

  std::string name_;  // of the model
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<text::ChatTemplate> template_;  // may be null
};

}  // namespace mesh::node
