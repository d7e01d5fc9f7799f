#pragma once
// tokenizer.json as plain values: what the parser (tokenizer_json.cc) reads and the tokenizer is
// built from.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace mesh::text {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;
  bool lstrip = false;       // also takes the white space before it
  bool rstrip = false;       // also takes the white space behind it
  bool single_word = false;  // not next to a word character
  bool normalized = false;   // searched in the normalised text
};

struct NormalizerStep {
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kLowercase, kReplace, kPrepend, kStrip };
  Kind kind = Kind::kNfc;
  std::string text;     // what to replace, or what to prepend
  bool regex = false;   // kReplace: `text` is a regular expression
  std::string content;  // kReplace: the new text
  bool left = false;    // kStrip
  bool right = false;
};

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  std::string pattern;  // regular expression; empty string: no match
  bool literal = false;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
  bool prefix_space = false;  // first puts a space before a piece that has none (ByteLevel)
  bool split = true;          // false: only prefix_space
};

struct BpeSpec {
  std::vector<std::pair<std::string, TokenId>> vocab;  // bytes (byte_level) or UTF-8 text
  std::vector<std::pair<std::string, std::string>> merges;
  bool ignore_merges = false;
  bool byte_fallback = false;
  bool fuse_unk = false;
  std::optional<std::string> unk_token;
};

struct TokenizerSpec {
  BpeSpec bpe;
  bool byte_level = false;  // symbols are bytes, not characters
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizers;
  std::vector<SplitStep> splits;
  std::vector<TokenId> prefix;  // what the post-processor puts around a text
  std::vector<TokenId> suffix;
  std::vector<std::pair<std::string, std::string>> decode_replace;  // per token, characters only
  std::string
      decode_strip;  // one character dropped up to decode_strip_count times at the start of a text
  std::size_t decode_strip_count = 0;
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
};

// Total: any bytes give a spec or an error (corrupt, unsupported) that names the member.
// `config_json` is tokenizer_config.json or empty. Padding and truncation of the file are not read,
// as transformers resets them.
Result<TokenizerSpec> parse_tokenizer_spec(std::string_view tokenizer_json,
                                           std::string_view config_json);

// The bytes that a token's spelling stands for under GPT-2's table of bytes and printable
// characters; the spelling itself if a character is not in the table, as Hugging Face's ByteLevel
// decoder has it. `mapped` tells which.
std::string byte_level_bytes(std::string_view spelling, bool& mapped);

}  // namespace mesh::text
