#pragma once
// Token ids to text while they are generated.

#include <string>

#include "base/ids.h"

namespace mesh::text {

class Tokenizer;

// Turns ids into text piece by piece. No piece ends inside a UTF-8 sequence; bytes that cannot
// become one give U+FFFD. All pieces with finish() are Tokenizer::decode of all ids, whatever the
// ids are. One thread; the tokenizer outlives the object. Holds back at most three bytes (and the
// characters a decoder may drop at the start).
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true);

  std::string push(TokenId id);  // the text that became complete, often empty
  bool holds_bytes() const { return !pending_.empty(); }  // the front of a character came
  std::string finish();  // what an unfinished sequence leaves; afterwards a new text may begin

 private:
  std::string stripped(std::string text);

  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;  // the front of a sequence
  std::size_t strips_left_;
};

}  // namespace mesh::text
