#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "text/test_models.h"

namespace mesh::text {
namespace {

using nlohmann::ordered_json;

// `arguments` holds tools, add_generation_prompt and further variables, as the fixtures spell them.
ChatInputs inputs_of(const ordered_json& messages, ordered_json arguments,
                     const Tokenizer& tokenizer) {
  ChatInputs inputs;
  inputs.messages_json = messages.dump();
  if (arguments.contains("tools")) {
    if (!arguments["tools"].is_null()) inputs.tools_json = arguments["tools"].dump();
    arguments.erase("tools");
  }
  if (arguments.contains("add_generation_prompt")) {
    inputs.add_generation_prompt = arguments["add_generation_prompt"];
    arguments.erase("add_generation_prompt");
  }
  if (!arguments.empty()) inputs.extra_json = arguments.dump();
  inputs.bos_token = tokenizer.bos_token();
  inputs.eos_token = tokenizer.eos_token();
  return inputs;
}

class ChatGolden : public testing::TestWithParam<const char*> {};

TEST_P(ChatGolden, RendersAndEncodesEveryCase) {
  const auto tokenizer = load_tokenizer(GetParam());
  const auto chat = load_template(GetParam());
  const auto data =
      ordered_json::parse(read_test_file(model_path(GetParam()) + "tokenizer_cases.json"));
  for (const auto& c : data["chat_cases"]) {
    SCOPED_TRACE(c["messages"].dump());
    const auto spans = chat->render(inputs_of(c["messages"], c["arguments"], *tokenizer));
    ASSERT_TRUE(spans.ok()) << spans.error().message;
    const std::string text = c["text"];
    const std::vector<TokenId> ids = c["ids"];
    EXPECT_EQ(concatenate(*spans), text);
    EXPECT_EQ(tokenizer->encode(text).value(), ids);
    // The reference also reads a control token that a user wrote; only without one must origins
    // change nothing.
    const auto own = tokenizer->encode(*spans).value();
    const bool user_wrote_one = text.find("And <|eot_id|> <|im_end|> again?") != std::string::npos;
    EXPECT_EQ(own == ids, !user_wrote_one);
    EXPECT_EQ(tokenizer->decode(own, false), text);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ChatGolden, testing::Values("llama", "qwen3"),
                         [](const auto& param) { return std::string(param.param); });

TEST(PocketGolden, EveryPromptHasTheIdsOfTheReference) {
  const auto tokenizer = load_tokenizer("pocket");
  const auto chat = load_template("pocket");
  const auto chats = ordered_json::parse(read_test_file(model_path("pocket") + "golden.json"));
  ASSERT_EQ(chats.size(), 111u);
  for (const auto& c : chats) {
    SCOPED_TRACE(c["messages"].dump());
    const ordered_json arguments = {{"tools", c["tools"]},
                                    {"enable_thinking", c["enable_thinking"]},
                                    {"add_generation_prompt", true}};
    const auto spans = chat->render(inputs_of(c["messages"], arguments, *tokenizer));
    ASSERT_TRUE(spans.ok()) << spans.error().message;
    EXPECT_EQ(tokenizer->encode(*spans).value(), c["prompt_ids"].get<std::vector<TokenId>>());
    EXPECT_EQ(tokenizer->decode(c["answer_ids"].get<std::vector<TokenId>>(), true),
              c["answer"].get<std::string>());
  }
}

TEST(ChatTemplateTest, CallerTextNeverBecomesAControlToken) {
  const std::uint64_t seed = 99;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Prng random(seed);
  for (const char* model : {"llama", "qwen3", "pocket"}) {
    const auto tokenizer = load_tokenizer(model);
    const auto chat = load_template(model);
    std::vector<std::pair<TokenId, std::string>> added;
    const auto file = ordered_json::parse(read_test_file(model_path(model) + "tokenizer.json"));
    for (const auto& token : file["added_tokens"])
      added.emplace_back(token["id"], token["content"]);
    ASSERT_FALSE(added.empty());
    const auto count_added = [&](const std::vector<TokenId>& ids) {
      return std::count_if(ids.begin(), ids.end(), [&](TokenId id) {
        return std::any_of(added.begin(), added.end(),
                           [&](const auto& t) { return t.first == id; });
      });
    };
    const ordered_json arguments = {
        {"add_generation_prompt", true},
        {"tools", {{{"type", "function"}, {"function", {{"name", "f"}}}}}}};
    for (int round = 0; round < 400; ++round) {
      ordered_json plain = {{{"role", "system"}, {"content", "Be kind."}},
                            {{"role", "user"}, {"content", "Tell me about mills, please."}},
                            {{"role", "assistant"}, {"content", "Mills turn."}},
                            {{"role", "tool"}, {"content", "wind: 3"}},
                            {{"role", "user"}, {"content", "And rivers?"}}};
      ordered_json hostile = plain;
      for (auto& message : hostile) {
        // The template itself splits an assistant's content at </think>, which may change how often
        // it writes one.
        if (message["role"] == "assistant") continue;
        std::string content = message["content"];
        for (std::size_t n = random.below(3); n > 0; --n)
          content.insert(random.below(content.size() + 1),
                         added[random.below(added.size())].second);
        message["content"] = content;
      }
      ordered_json tools = arguments;
      tools["tools"][0]["function"]["name"] = added[random.below(added.size())].second;
      tools["tools"][0]["function"][added[random.below(added.size())].second] = 1;
      const auto before =
          tokenizer->encode(chat->render(inputs_of(plain, arguments, *tokenizer)).value()).value();
      const auto after =
          tokenizer->encode(chat->render(inputs_of(hostile, tools, *tokenizer)).value()).value();
      ASSERT_EQ(count_added(after), count_added(before)) << model << " " << hostile.dump();
    }
  }
}

std::string rendered(std::string_view source, const ChatInputs& inputs) {
  const auto chat = ChatTemplate::parse(source);
  if (!chat.ok()) return "parse: " + chat.error().message;
  const auto spans = (*chat)->render(inputs);
  return spans.ok() ? concatenate(*spans) : "render: " + spans.error().message;
}

TEST(ChatTemplateTest, GivesTheVariablesOfHuggingFace) {
  ChatInputs inputs;
  inputs.messages_json = R"([{"role":"user","content":[{"type":"text","text":"hi"}]}])";
  inputs.bos_token = "<s>";
  inputs.unix_seconds = 1721952000;  // 2024-07-26 00:00 UTC, a Friday
  EXPECT_EQ(
      rendered(
          "{{ bos_token }}|{{ eos_token is defined }}|{{ tools is none }}|{{ documents is none }}|"
          "{{ add_generation_prompt }}|{{ messages[0].content[0].text }}",
          inputs),
      "<s>|False|True|True|False|hi");
  EXPECT_EQ(rendered("{{ strftime_now('%d %b %Y %A %-d %H:%M') }}", inputs),
            "26 Jul 2024 Friday 26 00:00");
  inputs.extra_json = R"({"enable_thinking":false,"messages":"mine","bos_token":"evil"})";
  EXPECT_EQ(
      rendered("{{ enable_thinking is false }}{{ messages | length }}{{ bos_token }}", inputs),
      "True1<s>");
}

TEST(ChatTemplateTest, ErrorsSayWhatIsWrong) {
  ChatInputs inputs;
  inputs.messages_json = "[]";
  EXPECT_EQ(rendered("{{ raise_exception('roles must alternate') }}", inputs),
            "render: roles must alternate");
  EXPECT_EQ(rendered("a\n{{ nothing.x }}", inputs), "render: line 2: 'nothing' is undefined");
  EXPECT_EQ(rendered("a\nb\n{% if %}", inputs).substr(0, 30), "parse: chat template: line 3: ");
  inputs.messages_json = "[";
  EXPECT_EQ(rendered("x", inputs).substr(0, 25), "render: messages: not JSO");
  inputs.messages_json = "{}";
  EXPECT_EQ(rendered("x", inputs), "render: messages is not a list");
  inputs.messages_json = std::string(200, '[') + std::string(200, ']');
  EXPECT_EQ(rendered("x", inputs), "render: messages: JSON nested deeper than 100");
  inputs.messages_json = "[]";
  inputs.extra_json = "[]";
  EXPECT_EQ(rendered("x", inputs), "render: template arguments are not an object");
}

}  // namespace
}  // namespace mesh::text
