#pragma once
// Text to token ids and back, from a Hugging Face tokenizer.json.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "text/span.h"

namespace mesh::text {

// Byte-pair encoding with everything around it: added tokens, normaliser, pre-tokeniser,
// post-processor, decoder. Immutable after parse: every const member may be called by many threads
// at once. The cache of short pieces lives in one call of encode, so there is nothing to lock.
// Source: Hugging Face tokenizers 0.23.
class Tokenizer {
 public:
  struct EncodeOptions {
    // Which added tokens are recognised in the text. kNotSpecial is Hugging Face's
    // encode_special_tokens.
    enum class Added : std::uint8_t { kAll, kNotSpecial, kNone };
    bool add_bos = false;  // puts what the post-processor adds around the ids
    Added added = Added::kAll;
  };

  // Total: any bytes give a tokenizer or an error. `tokenizer_config_json` may be empty; it names
  // BOS and EOS. Errors: corrupt; unsupported with the name of what is ("tokenizer.json:
  // pre_tokenizer type 'X' is not supported").
  static Result<std::unique_ptr<Tokenizer>> parse(std::string_view tokenizer_json,
                                                  std::string_view tokenizer_config_json);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Ill-formed UTF-8 is read as U+FFFD. Errors: resource_exhausted above limits::kPromptBytes or
  // when a pattern backtracks too far. Time O(n log n).
  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options) const;
  Result<std::vector<TokenId>> encode(std::string_view text) const;

  // A rendered chat: added tokens are recognised only where every byte is the template's; no BOS is
  // added. Ordinary text gives the same ids as the joined text would, wherever the borders between
  // spans lie.
  Result<std::vector<TokenId>> encode(const SpanText& spans) const;

  // The normalised text as the pre-tokeniser cuts it, no added token recognised.
  Result<std::vector<std::string>> pieces(std::string_view text) const;

  std::size_t vocab_size() const;  // largest id + 1
  std::string_view token_bytes(
      TokenId id) const;  // what the token decodes to; empty for an unknown id
  bool is_special(TokenId id) const;
  // Of an added token by its content, else of a vocabulary entry by its bytes.
  std::optional<TokenId> token_id(std::string_view content) const;

  // Joins the bytes of the tokens; ill-formed UTF-8 becomes U+FFFD; unknown ids yield nothing.
  std::string decode(std::span<const TokenId> ids, bool skip_special) const;
  // A decoder may drop up to count(strip) copies of one character at the start of a text.
  std::string_view strip_text() const;
  std::size_t strip_count() const;

  std::optional<TokenId> bos() const;  // from tokenizer_config.json
  std::optional<TokenId> eos() const;
  const std::string& bos_token() const;  // the spelling; empty if there is none
  const std::string& eos_token() const;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace mesh::text
