#pragma once
// Regular expressions of tokenizer.json (written for Oniguruma) run by PCRE2 with JIT.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mesh::text {

struct ByteRange {
  std::size_t begin = 0;
  std::size_t end = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

// Immutable after compile; find_all may run on many threads at once.
class Regex {
 public:
  // Rewrites what Oniguruma and PCRE2 read differently: \s is White_Space exactly, `[A&&[^B]]`
  // becomes a look-ahead. Errors: unsupported for a pattern that cannot be rewritten or compiled
  // (message has the offset).
  static Result<std::unique_ptr<Regex>> compile(std::string_view pattern);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  // Appends all matches from left to right, also empty ones. `text` must be valid UTF-8.
  // Errors: resource_exhausted when one match needs more than limits::kRegexSteps.
  Result<void> find_all(std::string_view text, std::vector<ByteRange>& matches) const;

 private:
  struct State;
  explicit Regex(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Appends the occurrences of `literal` in `text` that do not overlap, from left to right; none if
// it is empty.
void append_literal_matches(std::string_view text, std::string_view literal,
                            std::vector<ByteRange>& matches);

// The PCRE2 spelling of an Oniguruma pattern; for tests.
Result<std::string> rewrite_for_pcre(std::string_view pattern);

}  // namespace mesh::text
