#pragma once
// Normalisation of text before it is split: Unicode forms, case, replacements; origins are carried
// along.

#include <memory>
#include <vector>

#include "base/result.h"
#include "text/marked_text.h"
#include "text/regex.h"
#include "text/tokenizer_spec.h"

namespace mesh::text {

// Immutable after build; may be used by many threads at once.
class Normalizer {
 public:
  static Result<std::unique_ptr<Normalizer>> build(std::vector<NormalizerStep> steps);

  // `text` must be valid UTF-8, so is the result. Characters that several make together are the
  // caller's if one was. Linear time but for the sorting of combining marks (n log n).
  Result<MarkedText> apply(MarkedText text) const;
  bool empty() const { return steps_.empty(); }

 private:
  std::vector<NormalizerStep> steps_;
  std::vector<std::unique_ptr<Regex>> regexes_;  // one per step, null where none is needed
};

}  // namespace mesh::text
