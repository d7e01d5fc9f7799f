#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/random.h"
#include "text/detokenizer.h"
#include "text/pretokenizer.h"

namespace mesh::text {
namespace {

using nlohmann::json;
using Added = Tokenizer::EncodeOptions::Added;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string model_path(const std::string& model) {
  if (model == "pocket") return std::string(MESH_REPOSITORY) + "/models/pocket/";
  return std::string(MESH_TEST_DATA) + "/models/" + model + "/";
}

std::unique_ptr<Tokenizer> load(const std::string& model) {
  auto tokenizer = Tokenizer::parse(read_file(model_path(model) + "tokenizer.json"),
                                    read_file(model_path(model) + "tokenizer_config.json"));
  EXPECT_TRUE(tokenizer.ok()) << (tokenizer.ok() ? "" : tokenizer.error().message);
  return std::move(tokenizer).value();
}

class TokenizerGolden : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, EncodesAndDecodesEveryCase) {
  const auto tokenizer = load(GetParam());
  const json data = json::parse(read_file(model_path(GetParam()) + "tokenizer_cases.json"));
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
      json::parse(read_file(std::string(MESH_TEST_DATA) + "/models/pretokenizers.json"));
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
  const auto llama = load("llama");
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
  const auto qwen = load("qwen3");
  EXPECT_EQ(qwen->bos(), std::nullopt);
  EXPECT_EQ(qwen->eos(), 309);
  EXPECT_EQ(qwen->decode(std::vector<TokenId>{64, 319, -1, 1 << 29, 64}, false), "aa");
}

}  // namespace
}  // namespace mesh::text
