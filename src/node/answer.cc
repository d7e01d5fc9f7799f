#include "node/answer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "text/utf8.h"

namespace mesh::node {

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& stop : stops) {
    MESH_CHECK(!stop.empty(), "an empty stop string");
    Pattern pattern{stop, std::vector<std::size_t>(stop.size() + 1, 0), 0};
    for (std::size_t i = 1; i < stop.size(); ++i) {
      std::size_t front = pattern.border[i];
      while (front > 0 && stop[front] != stop[i]) front = pattern.border[front];
      pattern.border[i + 1] = stop[front] == stop[i] ? front + 1 : 0;
    }
    patterns_.push_back(std::move(pattern));
  }
}

std::optional<StopMatcher::Match> StopMatcher::push(std::string_view text) {
  for (const char byte : text) {
    ++position_;
    std::optional<Match> found;
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
      Pattern& p = patterns_[i];
      while (p.matched > 0 && p.text[p.matched] != byte) p.matched = p.border[p.matched];
      if (p.text[p.matched] == byte) ++p.matched;
      if (p.matched < p.text.size()) continue;
      const Match match{position_ - p.text.size(), position_, i};
      if (!found || match.begin < found->begin) found = match;
    }
    if (found) return found;
  }
  return std::nullopt;
}

void StopMatcher::skip(std::size_t bytes) {
  position_ += bytes;
  for (Pattern& pattern : patterns_) pattern.matched = 0;
}

std::size_t StopMatcher::held() const {
  std::size_t most = 0;
  for (const Pattern& pattern : patterns_) most = std::max(most, pattern.matched);
  return most;
}

TokenText token_text(const text::Tokenizer& tokenizer, const SampledToken& token) {
  TokenText out;
  out.token = token.token;
  out.bytes = std::string(tokenizer.token_bytes(token.token));
  out.logprob = token.logprob;
  out.top.reserve(token.top.size());
  for (const TokenScore& score : token.top)
    out.top.push_back(
        {score.token, std::string(tokenizer.token_bytes(score.token)), score.logprob});
  return out;
}

Answer::Answer(const text::Tokenizer& tokenizer, AnswerOptions options)
    : tokenizer_(tokenizer),
      options_(std::move(options)),
      detokenizer_(tokenizer, /*skip_special=*/true),
      matcher_(options_.stop) {}

Answer::Step Answer::push(const SampledToken& token) {
  if (done_) return {};
  ++tokens_;
  logprob_sum_ += double{token.logprob};
  const std::string text = detokenizer_.push(token.token);
  // What was held back of earlier tokens is the front of the first character that came out.
  if (!text.empty()) end_waiting(decoded_ + text::utf8_step(text).bytes);
  if (options_.token_texts) {
    Waiting waiting{token_text(tokenizer_, token), decoded_, std::nullopt};
    if (!detokenizer_.holds_bytes()) waiting.end = decoded_ + text.size();
    waiting_.push_back(std::move(waiting));
  }
  return take(text, /*last=*/false);
}

Answer::Step Answer::finish() {
  if (done_) return {};
  const std::string text = detokenizer_.finish();
  end_waiting(decoded_ + text.size());
  Step step = take(text, /*last=*/true);
  done_ = true;
  return step;
}

// The character that tokens wait for is complete.
void Answer::end_waiting(std::size_t end) {
  for (auto at = waiting_.rbegin(); at != waiting_.rend() && !at->end.has_value(); ++at)
    at->end = end;
}

Answer::Step Answer::take(const std::string& text, bool last) {
  Step step;
  held_ += text;
  decoded_ += text.size();
  std::optional<StopMatcher::Match> match;
  if (tokens_ > options_.min_tokens)
    match = matcher_.push(text);
  else
    matcher_.skip(text.size());
  std::size_t cut = last ? decoded_ : decoded_ - matcher_.held();
  if (match) {
    cut = options_.include_stop ? match->end : match->begin;
    step.stop = match->stop;
    done_ = true;
  }
  step.piece.text = held_.substr(0, cut - shown_);
  held_.erase(0, cut - shown_);
  shown_ = cut;
  while (!waiting_.empty()) {
    Waiting& front = waiting_.front();
    if (!(match ? front.begin < cut : front.end.has_value() && *front.end <= cut)) break;
    step.piece.tokens.push_back(std::move(front.token));
    waiting_.pop_front();
  }
  return step;
}

double Answer::mean_logprob() const {
  return tokens_ == 0 ? -std::numeric_limits<double>::infinity() : logprob_sum_ / tokens_;
}

}  // namespace mesh::node
