#pragma once
// One choice on its way out: tokens become text, stop strings end it, and what may be shown is cut
// into pieces.

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/sampling.h"
#include "node/gateway.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace mesh::node {

// Finds the first end of a stop string in a text that comes in pieces, wherever the pieces are cut:
// of all occurrences the one that is complete first, the longest among those that end together.
// Time O(bytes · strings). Source: Knuth, Morris, Pratt 1977.
class StopMatcher {
 public:
  struct Match {
    std::size_t begin = 0, end = 0;  // bytes of the whole text
    std::size_t stop = 0;            // which string
    friend bool operator==(const Match&, const Match&) = default;
  };
  explicit StopMatcher(const std::vector<std::string>& stops);  // none of them empty

  // More of the text. After a match nothing more may come.
  std::optional<Match> push(std::string_view text);
  // Text in which no match may begin or end.
  void skip(std::size_t bytes);
  // So many bytes at the end of the text may be the front of a stop string.
  std::size_t held() const;

 private:
  struct Pattern {
    std::string text;
    std::vector<std::size_t> border;  // of each front: its longest proper front that also ends it
    std::size_t matched = 0;
  };
  std::vector<Pattern> patterns_;
  std::size_t position_ = 0;
};

// A token and its score as clients see them.
TokenText token_text(const text::Tokenizer& tokenizer, const SampledToken& token);

struct AnswerOptions {
  std::vector<std::string> stop;
  bool include_stop = false;     // the stop string is shown
  std::uint32_t min_tokens = 0;  // text of so many tokens is not searched for stop strings
  bool token_texts = false;      // pieces carry a TokenText for each token
};

// Text before a stop string is shown, what follows it never is. Tokens count up to and including
// the one that completes the stop string. A TokenText rides in the piece in which its text ends; at
// a stop string those whose text begins before the cut come with the last piece, the others never.
// All pieces joined are Tokenizer::decode (special tokens skipped) of all tokens up to the cut. One
// thread; the tokenizer outlives the object.
class Answer {
 public:
  struct Step {
    Piece piece;                      // perhaps empty
    std::optional<std::size_t> stop;  // this stop string ended the answer; push nothing more
  };
  Answer(const text::Tokenizer& tokenizer, AnswerOptions options);

  Step push(const SampledToken& token);
  // No token follows: what was held back.
  Step finish();

  std::uint32_t tokens() const { return tokens_; }
  // Per counted token; of no tokens minus infinity, so that saying nothing is never the best.
  double mean_logprob() const;

 private:
  struct Waiting {
    TokenText token;
    std::size_t begin = 0;           // where its text begins
    std::optional<std::size_t> end;  // none: inside a character that is not complete
  };
  Step take(const std::string& text, bool last);
  void end_waiting(std::size_t end);

  const text::Tokenizer& tokenizer_;
  AnswerOptions options_;
  text::Detokenizer detokenizer_;
  StopMatcher matcher_;
  std::string held_;         // text that is not shown yet
  std::size_t shown_ = 0;    // bytes
  std::size_t decoded_ = 0;  // bytes: shown_ + held_.size()
  std::deque<Waiting> waiting_;
  std::uint32_t tokens_ = 0;
  double logprob_sum_ = 0;
  bool done_ = false;
};

}  // namespace mesh::node
