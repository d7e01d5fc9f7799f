#pragma once
// Cuts normalised text into the pieces within which byte-pair merges happen.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/regex.h"
#include "text/tokenizer_spec.h"

namespace mesh::text {

// Immutable after build; may be used by many threads at once.
class PreTokenizer {
 public:
  static Result<std::unique_ptr<PreTokenizer>> build(std::vector<SplitStep> steps);

  // Every step refines the pieces of the one before. `text` must be valid UTF-8. No piece is empty.
  // Errors: resource_exhausted when a pattern backtracks too far.
  Result<std::vector<std::string>> split(std::string_view text) const;

 private:
  std::vector<SplitStep> steps_;
  std::vector<std::unique_ptr<Regex>> regexes_;  // null: literal, or no split
};

}  // namespace mesh::text
