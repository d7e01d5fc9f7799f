#include "node/answer.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/random.h"
#include "formats/model_files.h"
#include "text/utf8.h"

namespace mesh::node {
namespace {

using Match = StopMatcher::Match;

const text::Tokenizer& pocket() {
  static const auto tokenizer = [] {
    const formats::ModelFiles files = formats::open_builtin_model();
    return text::Tokenizer::parse(files.tokenizer_json, files.tokenizer_config_json).value();
  }();
  return *tokenizer;
}

// The definition, tried at every end.
std::optional<Match> naive_match(const std::string& text, const std::vector<std::string>& stops) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::optional<Match> best;
    for (std::size_t i = 0; i < stops.size(); ++i) {
      const std::size_t size = stops[i].size();
      if (size > end || text.compare(end - size, size, stops[i]) != 0) continue;
      if (!best || end - size < best->begin) best = Match{end - size, end, i};
    }
    if (best) return best;
  }
  return std::nullopt;
}

TEST(StopMatcherTest, EverySplitGivesTheMatchOfTheDefinition) {
  const std::uint64_t seed = 11;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Prng random(seed);
  const std::vector<std::string> letters = {"a", "b", "é", "€"};
  const auto draw = [&](std::size_t most) {
    std::string out;
    for (std::size_t i = 1 + random.below(most); i > 0; --i) out += letters[random.below(3)];
    return out;
  };
  for (int round = 0; round < 150; ++round) {
    std::string text = draw(7);
    if (text.size() > 10) continue;
    std::vector<std::string> stops;
    for (std::size_t i = random.below(4); i > 0; --i) stops.push_back(draw(3));
    const std::optional<Match> expected = naive_match(text, stops);
    for (std::uint32_t cuts = 0; cuts < 1u << (text.size() - 1); ++cuts) {
      StopMatcher matcher(stops);
      std::optional<Match> found;
      std::size_t begin = 0;
      for (std::size_t end = 1; end <= text.size() && !found; ++end) {
        if (end < text.size() && (cuts >> (end - 1) & 1) == 0) continue;
        found = matcher.push(text.substr(begin, end - begin));
        begin = end;
        // What may be shown never reaches into the match.
        if (!found && expected) {
          ASSERT_LE(end - matcher.held(), expected->begin);
        }
      }
      ASSERT_EQ(found, expected) << text << " cuts " << cuts;
    }
  }
}

// A text cut into tokens at random; the vocabulary has every single byte.
std::vector<TokenId> random_tokens(const std::string& text, Prng& random) {
  static const auto by_bytes = [] {
    std::map<std::string, TokenId, std::less<>> out;
    for (std::size_t id = 0; id < pocket().vocab_size(); ++id) {
      const auto token = static_cast<TokenId>(id);
      if (!pocket().is_special(token)) out.emplace(pocket().token_bytes(token), token);
    }
    return out;
  }();
  std::vector<TokenId> out;
  for (std::size_t at = 0; at < text.size();) {
    std::vector<TokenId> fits;
    for (std::size_t size = 1; size <= 8 && at + size <= text.size(); ++size)
      if (const auto found = by_bytes.find(text.substr(at, size)); found != by_bytes.end())
        fits.push_back(found->second);
    const TokenId token = fits.at(random.below(fits.size()));
    out.push_back(token);
    at += pocket().token_bytes(token).size();
  }
  return out;
}

struct Shown {
  std::string text;
  std::vector<TokenText> tokens;
  std::optional<std::size_t> stop;
  std::uint32_t counted = 0;
};

// After every step the tokens delivered are those whose text was.
Shown play(const std::vector<TokenId>& ids, AnswerOptions options,
           const std::function<void(const Shown&)>& after_step = {}) {
  options.token_texts = true;
  Answer answer(pocket(), options);
  Shown out;
  const auto take = [&](Answer::Step step) {
    EXPECT_TRUE(text::is_utf8(step.piece.text));
    out.text += step.piece.text;
    for (TokenText& token : step.piece.tokens) out.tokens.push_back(std::move(token));
    if (step.stop) out.stop = step.stop;
    if (after_step && !out.stop) after_step(out);
  };
  for (const TokenId id : ids)
    if (!out.stop) take(answer.push({id, -0.5f, {}}));
  if (!out.stop) take(answer.finish());
  out.counted = answer.tokens();
  return out;
}

TEST(AnswerTest, TextStopsTokensAndCountsAgreeWithTheDefinition) {
  const std::uint64_t seed = 23;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Prng random(seed);
  const std::vector<std::string> words = {"the ", "tree", "€", "日本", "😀", "e", "a the", "\n"};
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (std::size_t i = 1 + random.below(8); i > 0; --i) text += words[random.below(words.size())];
    const std::vector<TokenId> ids = random_tokens(text, random);
    AnswerOptions options;
    options.include_stop = random.below(2) == 0;
    for (std::size_t i = random.below(3); i > 0; --i) {
      const std::size_t from = random.below(text.size());
      std::string stop = text.substr(from, 1 + random.below(6));
      if (text::is_utf8(stop)) options.stop.push_back(stop);
    }
    // Of every token: the character borders around its bytes.
    std::vector<std::size_t> begins, ends;
    std::size_t offset = 0;
    const auto inside = [&](std::size_t at) {
      return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
    };
    for (const TokenId id : ids) {
      std::size_t begin = offset, end = offset += pocket().token_bytes(id).size();
      while (inside(begin)) --begin;
      while (inside(end)) ++end;
      begins.push_back(begin);
      ends.push_back(end);
    }
    const Shown out = play(ids, options, [&](const Shown& now) {
      std::size_t due = 0;
      while (due < ends.size() && ends[due] <= now.text.size()) ++due;
      ASSERT_EQ(now.tokens.size(), due);
    });
    const std::optional<Match> match = naive_match(text, options.stop);
    const std::size_t cut = !match ? text.size() : options.include_stop ? match->end : match->begin;
    ASSERT_EQ(out.text, text.substr(0, cut));
    ASSERT_EQ(out.stop.has_value(), match.has_value());
    if (match) {
      ASSERT_EQ(options.stop[*out.stop], options.stop[match->stop]);
    }
    std::size_t counted = 0, shown = 0;
    // The token that completes the match's last character counts, and none after it.
    std::size_t done = 0;
    for (const TokenId id : ids) {
      if (match && done >= match->end) break;
      done += pocket().token_bytes(id).size();
      ++counted;
    }
    while (shown < ids.size() && begins[shown] < cut) ++shown;
    ASSERT_EQ(out.counted, counted);
    ASSERT_EQ(out.tokens.size(), shown);
    for (std::size_t i = 0; i < shown; ++i) ASSERT_EQ(out.tokens[i].token, ids[i]);
  }
}

TEST(AnswerTest, PiecesAreTheDecodedTokensWhateverTheyAre) {
  const std::uint64_t seed = 31;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Prng random(seed);
  for (int round = 0; round < 2000; ++round) {
    std::vector<TokenId> ids;
    for (std::size_t i = random.below(12); i > 0; --i)
      ids.push_back(static_cast<TokenId>(
          random.below(random.below(2) == 0 ? 256 : pocket().vocab_size() + 5)));
    const std::string all = pocket().decode(ids, true);
    const Shown whole = play(ids, {});
    ASSERT_EQ(whole.text, all);
    ASSERT_EQ(whole.tokens.size(), ids.size());
    if (all.empty()) continue;
    const std::size_t from = random.below(all.size());
    AnswerOptions options;
    options.stop = {all.substr(from, 1 + random.below(5))};
    if (!text::is_utf8(options.stop[0])) continue;
    const Shown stopped = play(ids, options);
    ASSERT_TRUE(stopped.stop.has_value());
    ASSERT_EQ(stopped.text, all.substr(0, all.find(options.stop[0])));
    ids.resize(stopped.counted);
    ASSERT_NE(pocket().decode(ids, true).find(options.stop[0]), std::string::npos);
  }
}

TEST(AnswerTest, TheFirstTokensAreNotSearchedForStopStrings) {
  Prng random(1);
  const std::vector<TokenId> ids = {random_tokens("a", random)[0], random_tokens("a", random)[0],
                                    random_tokens("a", random)[0]};
  AnswerOptions options;
  options.stop = {"a"};
  options.min_tokens = 2;
  const Shown out = play(ids, options);
  EXPECT_EQ(out.text, "aa");
  EXPECT_EQ(out.counted, 3u);
}

TEST(AnswerTest, TheMeanIsOfTheCountedTokens) {
  Answer answer(pocket(), {});
  EXPECT_LT(answer.mean_logprob(), -1e30);
  answer.push({1, -1.0f, {}});
  answer.push({2, -2.0f, {}});
  EXPECT_EQ(answer.mean_logprob(), -1.5);
}

TEST(AnswerTest, TokensCarryTheirAlternatives) {
  AnswerOptions options;
  options.token_texts = true;
  Answer answer(pocket(), options);
  const auto id = pocket().token_id("a").value(), other = pocket().token_id("b").value();
  const Answer::Step step = answer.push({id, -0.25f, {{id, -0.25f}, {other, -2.0f}}});
  ASSERT_EQ(step.piece.tokens.size(), 1u);
  const TokenText& token = step.piece.tokens[0];
  EXPECT_EQ(token.bytes, "a");
  EXPECT_EQ(token.logprob, -0.25f);
  ASSERT_EQ(token.top.size(), 2u);
  EXPECT_EQ(token.top[1].bytes, "b");
  EXPECT_EQ(token.top[1].logprob, -2.0f);
}

}  // namespace
}  // namespace mesh::node
