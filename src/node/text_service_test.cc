#include "node/text_service.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "formats/model_files.h"

namespace mesh::node {
namespace {

std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

// Without tensors; "pocket" is the built-in model.
formats::ModelFiles files_of(const std::string& model) {
  if (model == "pocket") return formats::open_builtin_model();
  const std::string folder = std::string(MESH_TEST_DATA) + "/models/" + model + "/";
  formats::ModelFiles files;
  files.name = model;
  files.tokenizer_json = text_of(folder + "tokenizer.json");
  files.tokenizer_config_json = text_of(folder + "tokenizer_config.json");
  files.chat_template = text_of(folder + "chat_template.jinja");
  return files;
}

std::string message(const std::string& role, const std::string& content_json) {
  return R"({"role": ")" + role + R"(", "content": )" + content_json + "}";
}

class ContinuedChat : public testing::TestWithParam<const char*> {
 protected:
  std::shared_ptr<const TextService> text = TextService::create(files_of(GetParam())).value();
  // What the prompt of these messages decodes to.
  Result<std::string> prompt(const std::string& messages, bool continue_final) const {
    ChatPrompt chat;
    chat.messages_json = "[" + messages + "]";
    chat.continue_final = continue_final;
    MESH_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, text->encode(chat, 1 << 30, 0));
    return text->decode(ids);
  }
};

TEST_P(ContinuedChat, EndsWhereTheContentOfTheLastMessageDoes) {
  const std::string user = message("user", R"("Say hello.")");
  const std::string open = prompt(user, false).value();
  for (const std::string content : {"Hello", "Hello, you ", "Say hello.", "a\nb"}) {
    std::string json = content;
    if (const auto at = json.find('\n'); at != std::string::npos) json.replace(at, 1, "\\n");
    const auto continued = prompt(user + "," + message("assistant", "\"" + json + "\""), true);
    ASSERT_TRUE(continued.ok()) << continued.error().message;
    EXPECT_EQ(*continued, open + content);
  }
}

TEST_P(ContinuedChat, OnlyAnAnswerWithTextCanBeContinued) {
  const std::string user = message("user", R"("Say hello.")");
  for (const std::string& last : {std::string(), "," + message("assistant", "null"),
                                  "," + message("assistant", "[]"), std::string(",5")}) {
    const auto continued = prompt(user + last, true);
    ASSERT_FALSE(continued.ok()) << last;
    EXPECT_EQ(continued.error().code, Code::kInvalidArgument);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ContinuedChat, testing::Values("llama", "qwen3", "pocket"),
                         [](const auto& param) { return std::string(param.param); });

TEST(ContinuedChatTest, TheLastTextOfPartsIsOpenAndHiddenContentIsAnError) {
  formats::ModelFiles files = files_of("pocket");
  files.chat_template =
      "{% for m in messages %}{% for p in m.content %}{{ p.text }};{% endfor %}{% endfor %}";
  const auto text = TextService::create(files).value();
  ChatPrompt chat;
  chat.messages_json =
      R"([{"role": "assistant", "content": [{"type": "text", "text": "one"},
                                            {"type": "text", "text": "two"}]}])";
  chat.continue_final = true;
  EXPECT_EQ(text->decode(text->encode(chat, 1530, 0).value()).value(), "one;two");
  files.chat_template = "{{ messages[0].role }}";
  const auto silent = TextService::create(files).value();
  const auto refused = silent->encode(chat, 1530, 0);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kInvalidArgument);
}

TEST(TextServiceTest, AModelWithoutATemplateStillContinuesTexts) {
  formats::ModelFiles files = files_of("pocket");
  files.chat_template.clear();
  const auto text = TextService::create(files).value();
  const auto chat = text->encode(ChatPrompt{"[]", "", "", false}, 1530, 0);
  ASSERT_FALSE(chat.ok());
  EXPECT_EQ(chat.error().code, Code::kInvalidArgument);
  EXPECT_NE(chat.error().message.find("no chat template"), std::string::npos);
  const PromptInput plain = std::string("hello world");
  const std::vector<TokenId> ids = text->encode(plain, 1530, 0).value();
  EXPECT_EQ(text->decode(ids).value(), "hello world");
  EXPECT_EQ(text->encode(ids, 1530, 0).value(), ids);
  EXPECT_EQ(text->shown_prompt(plain, ids), "hello world");
  EXPECT_EQ(text->shown_prompt(ids, ids), "hello world");
}

TEST(TextServiceTest, SpecialTokensOfAPlainTextAreRecognisedAndBosIsOptional) {
  const auto text = TextService::create(files_of("llama")).value();
  const TokenId bos = text->tokenizer().bos().value();
  const PromptInput plain = std::string("hi<|eot_id|>");
  const std::vector<TokenId> with = text->encode(plain, 1 << 30, 0).value();
  const std::vector<TokenId> without = text->encode(plain, 1 << 30, 0, false).value();
  EXPECT_EQ(with.front(), bos);
  EXPECT_EQ(without, std::vector<TokenId>(with.begin() + 1, with.end()));
  EXPECT_EQ(with.back(), text->tokenizer().token_id("<|eot_id|>").value());
  EXPECT_EQ(text->token_texts(without).back().bytes, "<|eot_id|>");
}

TEST(TextServiceTest, UnknownIdsAreNamed) {
  const auto text = TextService::create(files_of("pocket")).value();
  EXPECT_EQ(text->encode(std::vector<TokenId>{1, 1530}, 1530, 0).error().message,
            "token 1530 is not in the model's vocabulary of 1530 tokens");
  EXPECT_FALSE(text->decode(std::vector<TokenId>{-1}).ok());
  EXPECT_FALSE(text->decode(std::vector<TokenId>{1 << 30}).ok());
}

}  // namespace
}  // namespace mesh::node
