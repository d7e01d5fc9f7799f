#include "text/pretokenizer.h"

#include <algorithm>

namespace mesh::text {
namespace {

struct Cut {
  ByteRange range;
  bool match = false;
};

// The whole text as alternating matches and gaps, as Hugging Face's Pattern trait gives them.
std::vector<Cut> tile(std::size_t size, const std::vector<ByteRange>& matches, bool invert) {
  std::vector<Cut> cuts;
  std::size_t at = 0;
  for (const ByteRange& match : matches) {
    if (at != match.begin) cuts.push_back({{at, match.begin}, invert});
    cuts.push_back({match, !invert});
    at = match.end;
  }
  if (at != size) cuts.push_back({{at, size}, invert});
  return cuts;
}

// Merges a cut into the one before it where `joins` says so; for MergedWithNext the list runs
// backwards.
template <typename Joins>
std::vector<ByteRange> fold(const std::vector<Cut>& cuts, Joins joins) {
  std::vector<ByteRange> pieces;
  bool previous = false;
  for (const Cut& cut : cuts) {
    if (joins(cut.match, previous) && !pieces.empty()) {
      pieces.back().begin = std::min(pieces.back().begin, cut.range.begin);
      pieces.back().end = std::max(pieces.back().end, cut.range.end);
    } else {
      pieces.push_back(cut.range);
    }
    previous = cut.match;
  }
  return pieces;
}

std::vector<ByteRange> arrange(std::vector<Cut> cuts, SplitBehavior behavior) {
  const auto follows = [](bool match, bool previous) { return match && !previous; };
  switch (behavior) {
    case SplitBehavior::kRemoved:
      cuts.erase(std::remove_if(cuts.begin(), cuts.end(), [](const Cut& c) { return c.match; }),
                 cuts.end());
      break;
    case SplitBehavior::kIsolated:
      break;
    case SplitBehavior::kContiguous:
      return fold(cuts, [](bool match, bool previous) { return match == previous; });
    case SplitBehavior::kMergedWithPrevious:
      return fold(cuts, follows);
    case SplitBehavior::kMergedWithNext: {
      std::reverse(cuts.begin(), cuts.end());
      std::vector<ByteRange> pieces = fold(cuts, follows);
      std::reverse(pieces.begin(), pieces.end());
      return pieces;
    }
  }
  return fold(cuts, [](bool, bool) { return false; });
}

}  // namespace

Result<std::unique_ptr<PreTokenizer>> PreTokenizer::build(std::vector<SplitStep> steps) {
  auto out = std::make_unique<PreTokenizer>();
  for (const SplitStep& step : steps) {
    std::unique_ptr<Regex> regex;
    if (step.split && !step.literal) {
      MESH_ASSIGN_OR_RETURN(regex, Regex::compile(step.pattern));
    }
    out->regexes_.push_back(std::move(regex));
  }
  out->steps_ = std::move(steps);
  return out;
}

Result<std::vector<std::string>> PreTokenizer::split(std::string_view text) const {
  std::vector<std::string> pieces;
  if (!text.empty()) pieces.emplace_back(text);
  std::vector<ByteRange> matches;
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const SplitStep& step = steps_[i];
    std::vector<std::string> refined;
    for (std::string& piece : pieces) {
      if (step.prefix_space && piece.front() != ' ') piece.insert(piece.begin(), ' ');
      if (!step.split) {
        refined.push_back(std::move(piece));
        continue;
      }
      matches.clear();
      if (step.literal) {
        append_literal_matches(piece, step.pattern, matches);
      } else {
        MESH_RETURN_IF_ERROR(regexes_[i]->find_all(piece, matches));
      }
      for (const ByteRange& r : arrange(tile(piece.size(), matches, step.invert), step.behavior))
        if (r.begin < r.end) refined.push_back(piece.substr(r.begin, r.end - r.begin));
    }
    pieces = std::move(refined);
  }
  return pieces;
}

}  // namespace mesh::text
