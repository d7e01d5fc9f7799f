#pragma once
// From a chat to token ids and back, for the model a node serves. Immutable after creation; safe on
// any thread.

#include <memory>
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
  // Errors: not_found when the model has no tokenizer or template, corrupt / unsupported from their
  // parsers.
  static Result<std::shared_ptr<const TextService>> create(const formats::ModelFiles& files);

  // Renders the chat template (caller text can never become a control token) and encodes.
  // Errors: invalid_argument with the template's or the tokenizer's sentence.
  Result<std::vector<TokenId>> encode_chat(const ChatPrompt& request,
                                           std::int64_t unix_seconds) const;
  const text::Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  TextService() = default;
  std::unique_ptr<text::Tokenizer> tokenizer_;
  std::unique_ptr<text::ChatTemplate> template_;
  std::string bos_, eos_;
};

}  // namespace mesh::node
