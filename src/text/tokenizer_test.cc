#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "text/detokenizer.h"
#include "text/pretokenizer.h"
#include "text/test_models.h"
#include "text/tokenizer_spec.h"
#include "text/utf8.h"

namespace mesh::text {
namespace {

using nlohmann::json;
using Added = Tokenizer::EncodeOptions::Added;

class TokenizerGolden : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, EncodesAndDecodesEveryCase) {
  const auto tokenizer = load_tokenizer(GetParam());
  const json data = json::parse(read_test_file(model_path(GetParam()) + "tokenizer_cases.json"));
  for (const json& c : data["cases"]) {
    const std::string text = c["text"];
    SCOPED_TRACE(json(text).dump());
    const std::vector<TokenId> ids = c["ids"];
    EXPECT_EQ(tokenizer->encode(text).value(), ids);
    EXPECT_EQ(tokenizer->encode(text, {.add_bos = true}).value(),
              c["ids_with_bos"].get<std::vector<TokenId>>());
    EXPECT_EQ(tokenizer->encode(text, {.added = Added::kNotSpecial}).value(),
              c["ids_specials_as_text"].get<std::vector<TokenId>>());
    const std::vector<TokenId> as_text = c["ids_all_as_text"];
    EXPECT_EQ(tokenizer->encode(text, {.added = Added::kNone}).value(), as_text);
    EXPECT_EQ(tokenizer->encode(SpanText{{text, Origin::kCaller}}).value(), as_text);
    EXPECT_EQ(tokenizer->encode(SpanText{{text, Origin::kTemplate}}).value(), ids);
    EXPECT_EQ(tokenizer->decode(ids, false), c["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer->decode(ids, true), c["decoded_without_specials"].get<std::string>());
    EXPECT_EQ(tokenizer->pieces(text).value(), c["pieces"].get<std::vector<std::string>>());
  }
  for (const json& c : data["decode_cases"])
    EXPECT_EQ(tokenizer->decode(c["ids"].get<std::vector<TokenId>>(), false),
              c["text"].get<std::string>());
  for (const json& c : data["chat_cases"])
    EXPECT_EQ(tokenizer->encode(c["text"].get<std::string>()).value(),
              c["ids"].get<std::vector<TokenId>>());
}

INSTANTIATE_TEST_SUITE_P(Models, TokenizerGolden, testing::Values("llama", "qwen3"),
                         [](const auto& param) { return std::string(param.param); });

TEST(PreTokenizerGolden, CutsEveryTextOfEveryFamily) {
  const json data =
      json::parse(read_test_file(std::string(MESH_TEST_DATA) + "/models/pretokenizers.json"));
  for (const auto& [family, expected] : data["families"].items()) {
    std::vector<SplitStep> steps;
    for (const json& pattern : expected["patterns"]) {
      SplitStep step;
      step.pattern = pattern;
      steps.push_back(step);
    }
    const auto splitter = PreTokenizer::build(steps);
    ASSERT_TRUE(splitter.ok()) << splitter.error().message;
    for (std::size_t i = 0; i < data["texts"].size(); ++i) {
      EXPECT_EQ((*splitter)->split(data["texts"][i].get<std::string>()).value(),
                expected["pieces"][i].get<std::vector<std::string>>())
          << family << " " << data["texts"][i].dump();
    }
  }
}

TEST(TokenizerTest, KnowsItsTokens) {
  const auto llama = load_tokenizer("llama");
  EXPECT_EQ(llama->vocab_size(), 320u);
  EXPECT_EQ(llama->bos(), 312);
  EXPECT_EQ(llama->eos(), 317);
  EXPECT_EQ(llama->bos_token(), "<|begin_of_text|>");
  EXPECT_TRUE(llama->is_special(312));
  EXPECT_FALSE(llama->is_special(64));
  EXPECT_FALSE(llama->is_special(-1));
  EXPECT_FALSE(llama->is_special(1 << 30));
  EXPECT_EQ(llama->token_bytes(64), "a");
  EXPECT_EQ(llama->token_bytes(-5), "");
  EXPECT_EQ(llama->token_bytes(320), "");
  EXPECT_EQ(llama->token_id("<|eot_id|>"), 317);
  EXPECT_EQ(llama->token_id("a"), 64);
  EXPECT_EQ(llama->token_id("no such token"), std::nullopt);
  const auto qwen = load_tokenizer("qwen3");
  EXPECT_EQ(qwen->bos(), std::nullopt);
  EXPECT_EQ(qwen->eos(), 309);
  EXPECT_EQ(qwen->decode(std::vector<TokenId>{64, 319, -1, 1 << 29, 64}, false), "aa");
}

std::vector<TokenId> random_ids(Prng& random, std::size_t vocab) {
  std::vector<TokenId> ids(random.below(40));
  for (TokenId& id : ids) id = static_cast<TokenId>(random.below(vocab + 8)) - 4;  // some unknown
  return ids;
}

TEST(DetokenizerTest, PiecesAreTheWholeAndNeverCutACharacter) {
  for (const char* model : {"llama", "qwen3", "pocket"}) {
    const auto tokenizer = load_tokenizer(model);
    const std::uint64_t seed = 20240607;
    SCOPED_TRACE(testing::Message() << model << " seed " << seed);
    Prng random(seed);
    for (int round = 0; round < 3000; ++round) {
      const std::vector<TokenId> ids = random_ids(random, tokenizer->vocab_size());
      const bool skip = random.below(2) == 0;
      Detokenizer detokenizer(*tokenizer, skip);
      std::string joined;
      std::string bytes;
      for (const TokenId id : ids) {
        const std::string piece = detokenizer.push(id);
        ASSERT_TRUE(is_utf8(piece));
        joined += piece;
        if (!skip || !tokenizer->is_special(id)) bytes += tokenizer->token_bytes(id);
      }
      joined += detokenizer.finish();
      ASSERT_EQ(joined, to_valid_utf8(bytes));
      ASSERT_EQ(joined, tokenizer->decode(ids, skip));
    }
  }
}

// Text from an alphabet that provokes every kind of border: letters, marks, spaces, digits, CJK,
// emoji, quotes.
std::string random_text(Prng& random, std::size_t length) {
  static const std::vector<std::string> kParts = {"a",
                                                  "e\xCC\x81",
                                                  "\xCC\xA3\xCC\x88",
                                                  " ",
                                                  "  ",
                                                  "\n",
                                                  "\r\n",
                                                  "\t",
                                                  "'s",
                                                  "'LL",
                                                  "12",
                                                  "7",
                                                  "\xE6\xB0\xB4",
                                                  "\xF0\x9F\x8E\x89",
                                                  "<",
                                                  "|",
                                                  ">",
                                                  "the",
                                                  " the",
                                                  "Z",
                                                  ".",
                                                  "\xC2\xA0",
                                                  "\xEF\xAC\x81",
                                                  "\xE3\x80\x82"};
  std::string out;
  for (std::size_t i = 0; i < length; ++i) out += kParts[random.below(kParts.size())];
  return out;
}

TEST(TokenizerTest, BordersBetweenSpansDoNotChangeOrdinaryText) {
  const std::uint64_t seed = 7;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Prng random(seed);
  for (const char* model : {"llama", "qwen3", "pocket"}) {
    const auto tokenizer = load_tokenizer(model);
    for (int round = 0; round < 1500; ++round) {
      SpanText spans;
      for (std::size_t i = random.below(6); i > 0; --i)
        append_span(spans, random_text(random, random.below(6)),
                    random.below(2) == 0 ? Origin::kTemplate : Origin::kCaller);
      const std::string joined = concatenate(spans);
      ASSERT_EQ(tokenizer->encode(spans).value(), tokenizer->encode(joined).value())
          << json(joined).dump();
    }
  }
}

TEST(TokenizerTest, ACallerCannotWriteOrHideATokenOfTheTemplate) {
  const auto tokenizer = load_tokenizer("qwen3");
  const auto count = [&](const SpanText& spans) {
    const auto ids = tokenizer->encode(spans).value();
    return std::count(ids.begin(), ids.end(), 309);  // <|im_end|>
  };
  using S = SpanText;
  EXPECT_EQ(count(S{{"<|im_end|>", Origin::kTemplate}}), 1);
  EXPECT_EQ(count(S{{"<|im_end|>", Origin::kCaller}}), 0);
  EXPECT_EQ(count(S{{"<|im_", Origin::kTemplate}, {"end|>", Origin::kCaller}}), 0);
  EXPECT_EQ(count(S{{"<|im_", Origin::kCaller}, {"end|>", Origin::kTemplate}}), 0);
  EXPECT_EQ(
      count(S{{"<|im_", Origin::kTemplate}, {"e", Origin::kCaller}, {"nd|>", Origin::kTemplate}}),
      0);
  EXPECT_EQ(
      count(S{
          {"<|im_", Origin::kCaller}, {"<|im_end|>", Origin::kTemplate}, {"|>", Origin::kCaller}}),
      1);
  // Neighbours of the same origin, even unmerged, are one text.
  EXPECT_EQ(count(S{{"<|im_", Origin::kTemplate}, {"end|>", Origin::kTemplate}}), 1);
  // A span that ends inside a character is the caller's there, and nothing breaks.
  EXPECT_EQ(
      tokenizer->encode(S{{"\xE6\xB0", Origin::kTemplate}, {"\xB4", Origin::kCaller}}).value(),
      tokenizer->encode("\xE6\xB0\xB4").value());
}

TEST(TokenizerTest, LongPathologicalTextsEndInTime) {
  const auto tokenizer = load_tokenizer("qwen3");
  const auto repeat = [](std::string_view part, std::size_t bytes) {
    std::string out;
    while (out.size() < bytes) out += part;
    return out;
  };
  // Each would take minutes if any step were quadratic; the limit of the whole test program catches
  // that.
  for (const char* part : {"a", " ", "\n", "<", "<|im_", "the", "\xCC\xA3\xCC\x88", "\xE6\xB0\xB4",
                           "1", "'", "\xFF"}) {
    const auto ids = tokenizer->encode(repeat(part, 1 << 20));
    ASSERT_TRUE(ids.ok()) << json(part).dump(-1, ' ', true, json::error_handler_t::replace)
                          << ids.error().message;
    EXPECT_FALSE(ids->empty());
  }
  EXPECT_EQ(tokenizer->encode(std::string(17 << 20, 'x')).error().code, Code::kResourceExhausted);
}

// Scans all pairs anew after each merge: slow and obvious.
std::vector<TokenId> merged_plainly(const Tokenizer& tokenizer, const json& file,
                                    std::string_view piece) {
  std::map<std::pair<std::string, std::string>, std::size_t> ranks;
  for (const json& merge : file["model"]["merges"]) {
    bool mapped = false;
    ranks.emplace(std::pair(byte_level_bytes(merge[0].get<std::string>(), mapped),
                            byte_level_bytes(merge[1].get<std::string>(), mapped)),
                  ranks.size());
  }
  std::vector<std::string> symbols;
  for (const char c : piece) symbols.emplace_back(1, c);
  while (true) {
    std::size_t best = ranks.size();
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = ranks.find({symbols[i], symbols[i + 1]});
      if (it != ranks.end() && it->second < best) {
        best = it->second;
        at = i;
      }
    }
    if (best == ranks.size()) break;
    symbols[at] += symbols[at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<TokenId> ids;
  for (const std::string& symbol : symbols) ids.push_back(tokenizer.token_id(symbol).value());
  return ids;
}

TEST(TokenizerTest, MergesOfLongAndShortPiecesAreThoseOfAPlainScan) {
  const auto tokenizer = load_tokenizer("pocket");
  const json file = json::parse(read_test_file(model_path("pocket") + "tokenizer.json"));
  const std::uint64_t seed = 5;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Prng random(seed);
  for (int round = 0; round < 200; ++round) {
    std::string word = " ";
    for (std::size_t n = random.below(round % 2 == 0 ? 30 : 300); n > 0; --n)
      word += "aaaeinorstthl"[random.below(13)];  // letters only: one piece
    ASSERT_EQ(tokenizer->encode(word).value(), merged_plainly(*tokenizer, file, word)) << word;
  }
}

json base_tokenizer() {
  json vocab;
  for (int b = 0x21; b < 0x7F; ++b) vocab[std::string(1, static_cast<char>(b))] = b;
  vocab["\xC4\xA0"] = 32;  // space
  vocab["\xC4\x8A"] = 10;  // newline
  vocab["ab"] = 200;
  vocab["abc"] = 201;
  return {
      {"model",
       {{"type", "BPE"},
        {"vocab", vocab},
        {"merges", json::array({"a b", json::array({"ab", "c"})})}}},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"normalizer", nullptr},
      {"post_processor", nullptr},
      {"added_tokens", json::array()}};
}

std::vector<TokenId> ids_of(const json& file, std::string_view text) {
  const auto tokenizer = Tokenizer::parse(file.dump(), "");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  if (!tokenizer.ok()) return {};
  return (*tokenizer)->encode(text).value();
}

TEST(TokenizerTest, ReadsBothSpellingsOfMerges) {
  EXPECT_EQ(ids_of(base_tokenizer(), "abcab"), (std::vector<TokenId>{201, 200}));
}

TEST(TokenizerTest, AppliesTheNormalizers) {
  json file = base_tokenizer();
  file["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers",
       json::array({{{"type", "Lowercase"}},
                    {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}},
                    {{"type", "Replace"}, {"pattern", {{"String", "x"}}}, {"content", "ab"}},
                    {{"type", "Replace"}, {"pattern", {{"Regex", "[0-9]+"}}}, {"content", "c"}},
                    {{"type", "Prepend"}, {"prepend", "z"}}})}};
  EXPECT_EQ(ids_of(file, "  X123  "), (std::vector<TokenId>{'z', 201}));
  file["normalizer"] = {{"type", "NFKC"}};
  EXPECT_EQ(ids_of(file, "\xEF\xBD\x81\xE2\x93\x91"),
            (std::vector<TokenId>{200}));  // fullwidth a, circled b
}

TEST(TokenizerTest, HonoursTheFlagsOfAddedTokens) {
  json file = base_tokenizer();
  const auto with = [&](json flags) {
    json token = {{"id", 300},          {"content", "[T]"}, {"special", true},
                  {"lstrip", false},    {"rstrip", false},  {"single_word", false},
                  {"normalized", false}};
    token.update(flags);
    json copy = file;
    copy["added_tokens"] = json::array({token});
    return copy;
  };
  EXPECT_EQ(ids_of(with(json::object()), "a [T] b"), (std::vector<TokenId>{'a', 32, 300, 32, 'b'}));
  EXPECT_EQ(ids_of(with({{"lstrip", true}}), "a  [T] b"),
            (std::vector<TokenId>{'a', 300, 32, 'b'}));
  EXPECT_EQ(ids_of(with({{"rstrip", true}}), "a [T] \nb"),
            (std::vector<TokenId>{'a', 32, 300, 'b'}));
  EXPECT_EQ(ids_of(with({{"single_word", true}}), "a[T] [T]").back(), 300);
  EXPECT_EQ(ids_of(with({{"single_word", true}}), "a[T]b"),
            (std::vector<TokenId>{'a', '[', 'T', ']', 'b'}));
  json lower = with({{"normalized", true}});
  lower["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_EQ(ids_of(lower, "[t]"), (std::vector<TokenId>{300}));
  lower["added_tokens"][0]["normalized"] = false;
  EXPECT_EQ(ids_of(lower, "[t]"), (std::vector<TokenId>{'[', 't', ']'}));
}

TEST(TokenizerTest, TakesTheLongestAddedToken) {
  json file = base_tokenizer();
  for (const auto& [id, content] :
       std::vector<std::pair<int, std::string>>{{300, "<a"}, {301, "<ab>"}, {302, "b>"}})
    file["added_tokens"].push_back(
        {{"id", id}, {"content", content}, {"special", false}, {"normalized", false}});
  EXPECT_EQ(ids_of(file, "<ab>"), (std::vector<TokenId>{301}));
  EXPECT_EQ(ids_of(file, "<ab"), (std::vector<TokenId>{300, 'b'}));
  EXPECT_EQ(ids_of(file, "<ac<ab>b>"), (std::vector<TokenId>{300, 'c', 301, 302}));
}

TEST(TokenizerTest, NeverMergesIntoASpecialToken) {
  json file = base_tokenizer();
  file["model"]["ignore_merges"] = true;
  file["added_tokens"] = json::array({{{"id", 200}, {"content", "ab"}, {"special", true}}});
  const auto tokenizer = Tokenizer::parse(file.dump(), "").value();
  EXPECT_EQ(tokenizer->encode("ab").value(), (std::vector<TokenId>{200}));
  EXPECT_EQ(tokenizer->encode(SpanText{{"ab", Origin::kCaller}}).value(),
            (std::vector<TokenId>{'a', 'b'}));
}

TEST(TokenizerTest, DecodesCharactersWithByteFallback) {
  json vocab = {{"<unk>", 0},
                {"\xE2\x96\x81", 1},
                {"a", 2},
                {"\xE2\x96\x81"
                 "a",
                 3}};
  for (int b = 0; b < 256; ++b) vocab[fmt::format("<0x{:02X}>", b)] = 10 + b;
  const std::string spiece = "\xE2\x96\x81";
  const json file = {
      {"model",
       {{"type", "BPE"},
        {"vocab", vocab},
        {"merges", json::array({spiece + " a"})},
        {"byte_fallback", true},
        {"unk_token", "<unk>"},
        {"fuse_unk", true}}},
      {"normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         json::array(
             {{{"type", "Prepend"}, {"prepend", spiece}},
              {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", spiece}}})}}},
      {"pre_tokenizer", nullptr},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         json::array({{{"type", "Replace"}, {"pattern", {{"String", spiece}}}, {"content", " "}},
                      {{"type", "ByteFallback"}},
                      {{"type", "Fuse"}},
                      {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}})}}}};
  const auto tokenizer = Tokenizer::parse(file.dump(), "").value();
  const auto ids = tokenizer->encode("a \xE6\xB0\xB4").value();
  EXPECT_EQ(ids, (std::vector<TokenId>{3, 1, 10 + 0xE6, 10 + 0xB0, 10 + 0xB4}));
  EXPECT_EQ(tokenizer->decode(ids, true), "a \xE6\xB0\xB4");
}

TEST(PreTokenizerTest, ArrangesMatchesAsHuggingFaceDoes) {
  const auto cut = [](SplitBehavior behavior, bool invert) {
    SplitStep step;
    step.pattern = "-";
    step.literal = true;
    step.behavior = behavior;
    step.invert = invert;
    return PreTokenizer::build({step}).value()->split("the-final--countdown").value();
  };
  using V = std::vector<std::string>;
  EXPECT_EQ(cut(SplitBehavior::kRemoved, false), (V{"the", "final", "countdown"}));
  EXPECT_EQ(cut(SplitBehavior::kIsolated, false), (V{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(cut(SplitBehavior::kMergedWithPrevious, false),
            (V{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(cut(SplitBehavior::kMergedWithNext, false), (V{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(cut(SplitBehavior::kContiguous, false), (V{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(cut(SplitBehavior::kRemoved, true), (V{"-", "-", "-"}));
}

TEST(TokenizerTest, NamesWhatItDoesNotSupport) {
  const auto message = [](const json& file) {
    const auto result = Tokenizer::parse(file.dump(), "");
    EXPECT_FALSE(result.ok());
    return result.ok() ? "" : result.error().message;
  };
  json file = base_tokenizer();
  file["pre_tokenizer"]["type"] = "Metaphor";
  EXPECT_EQ(message(file), "tokenizer.json: pre_tokenizer type 'Metaphor' is not supported");
  file = base_tokenizer();
  file["model"]["type"] = "Unigram";
  EXPECT_EQ(message(file), "tokenizer.json: model type 'Unigram' is not supported");
  file = base_tokenizer();
  file["normalizer"] = {{"type", "Nmt"}};
  EXPECT_EQ(message(file), "tokenizer.json: normalizer type 'Nmt' is not supported");
  file = base_tokenizer();
  file["decoder"] = {{"type", "WordPiece"}};
  EXPECT_EQ(message(file), "tokenizer.json: decoder type 'WordPiece' is not supported");
  file = base_tokenizer();
  file["post_processor"] = {{"type", "BertProcessing"}};
  EXPECT_EQ(message(file), "tokenizer.json: post_processor type 'BertProcessing' is not supported");
}

TEST(TokenizerTest, MalformedFilesGiveErrors) {
  const std::string good = base_tokenizer().dump();
  ASSERT_TRUE(Tokenizer::parse(good, "").ok());
  for (const char* bad :
       {"", "null", "[]", "{}", "\"x\"", "{\"model\":1}", "{\"model\":{}}", "{", "\xFF\xFE"})
    EXPECT_FALSE(Tokenizer::parse(bad, "").ok()) << bad;
  for (std::size_t cut = 0; cut < good.size(); cut += 7)
    EXPECT_FALSE(Tokenizer::parse(good.substr(0, cut), "").ok());
  EXPECT_FALSE(Tokenizer::parse(good, "[]").ok());
  EXPECT_FALSE(Tokenizer::parse(good, "{").ok());
  EXPECT_FALSE(Tokenizer::parse(std::string(100000, '['), "").ok());
  json deep = {{"type", "NFC"}};
  for (int i = 0; i < 50; ++i) deep = {{"type", "Sequence"}, {"normalizers", json::array({deep})}};
  json file = base_tokenizer();
  file["normalizer"] = deep;
  EXPECT_FALSE(Tokenizer::parse(file.dump(), "").ok());
  // Every member in turn becomes a value of another type, or goes away: an error or a tokenizer,
  // never a crash.
  const json base = base_tokenizer().flatten();
  for (const auto& [path, value] : base.items()) {
    for (const json& wrong :
         {json(nullptr), json(-1), json(1e300), json("x"), json::array(), json::object()}) {
      json copy = base_tokenizer();
      copy[json::json_pointer(path)] = wrong;
      const auto result = Tokenizer::parse(copy.dump(), "{}");
      EXPECT_TRUE(!result.ok() || (*result)->encode("ab c1 \xE6\xB0\xB4").ok());
    }
  }
  for (const char* pattern :
       {"(", "[", "[a", "\\", "(?<x", "[a&&[^b]c]", "[^a&&[b]]", "[[a]]", "*", "a{99999999}"}) {
    file = base_tokenizer();
    file["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers", json::array({{{"type", "Split"},
                                        {"pattern", {{"Regex", pattern}}},
                                        {"behavior", "Isolated"},
                                        {"invert", false}},
                                       {{"type", "ByteLevel"}, {"use_regex", false}}})}};
    EXPECT_FALSE(Tokenizer::parse(file.dump(), "").ok()) << pattern;
  }
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$";
  const auto slow = Tokenizer::parse(file.dump(), "");
  ASSERT_TRUE(slow.ok());
  EXPECT_FALSE((*slow)->encode(std::string(40, 'a') + "b").ok());  // gives up instead of hanging
}

}  // namespace
}  // namespace mesh::text
