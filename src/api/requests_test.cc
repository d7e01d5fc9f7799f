#include "api/chat_request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/completion_request.h"
#include "api/tokenize_request.h"
#include "base/random.h"

namespace mesh::api {
namespace {

using nlohmann::json;

const std::string kMessages = R"("messages":[{"role":"user","content":"hi"}])";

std::string with(const std::string& members) {
  return "{" + kMessages + "," + members + "}";
}

AnswerRequest accepted(const std::string& body) {
  auto parsed = parse_chat_request(body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << body << ": " << error->message;
    return {};
  }
  return std::get<AnswerRequest>(parsed);
}

ApiError refused(const std::string& body) {
  auto parsed = parse_chat_request(body);
  if (std::holds_alternative<ApiError>(parsed)) return std::get<ApiError>(parsed);
  ADD_FAILURE() << body << " was accepted";
  return {};
}

TEST(ChatRequest, ReadsWhatExists) {
  const AnswerRequest request =
      accepted(R"({ "model":"m", "messages" : [ {"role":"user", "content":"h\u00e4"} ],)"
               R"("max_tokens":7,"stream":true,"stream_options":{"include_usage":true},)"
               R"("chat_template_kwargs":{"enable_thinking": false},"temperature":0})");
  EXPECT_EQ(request.model, "m");
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
  EXPECT_EQ(request.generate.max_tokens, 7u);
  EXPECT_EQ(std::get<node::ChatPrompt>(request.generate.prompts.at(0)).messages_json,
            R"([ {"role":"user", "content":"h\u00e4"} ])");
  EXPECT_EQ(std::get<node::ChatPrompt>(request.generate.prompts.at(0)).template_json,
            R"({"enable_thinking": false})");
  EXPECT_EQ(std::get<node::ChatPrompt>(request.generate.prompts.at(0)).tools_json, "");
}

TEST(ChatRequest, DefaultsAreNeutral) {
  const AnswerRequest request = accepted("{" + kMessages + "}");
  EXPECT_FALSE(request.stream);
  EXPECT_FALSE(request.include_usage);
  EXPECT_EQ(request.model, "");
  EXPECT_EQ(request.generate.max_tokens, std::nullopt);
  EXPECT_EQ(std::get<node::ChatPrompt>(request.generate.prompts.at(0)).template_json, "");
}

TEST(ChatRequest, AcceptsNeutralValuesAndIgnoresTheRest) {
  for (const char* members : {R"("temperature":null)",
                              R"("stop":null)",
                              R"("stop":[])",
                              R"("logit_bias":null)",
                              R"("logprobs":false)",
                              R"("top_logprobs":0)",
                              R"("tools":[])",
                              R"("tools":null)",
                              R"("tool_choice":"none")",
                              R"("tool_choice":"auto")",
                              R"("tools":[{"type":"function"}],"tool_choice":"none")",
                              R"("parallel_tool_calls":true)",
                              R"("response_format":{"type":"text"})",
                              R"("typical_p":1)",
                              R"("echo":false)",
                              R"("suffix":"")",
                              R"("skip_special_tokens":true)",
                              R"("add_generation_prompt":true)",
                              R"("best_of":1,"stream":true)",
                              R"("user":"u")",
                              R"("metadata":{"a":1})",
                              R"("store":true)",
                              R"("service_tier":"auto")",
                              R"("modalities":["text"])",
                              R"("prediction":{})",
                              R"("never_heard_of":[[1]])",
                              R"("stream_options":null)",
                              R"("max_tokens":null)",
                              R"("model":null)",
                              R"("model":"")",
                              R"("chat_template_kwargs":null)",
                              R"("stream":null)"}) {
    const AnswerRequest request = accepted(with(members));
    EXPECT_EQ(request.generate.sampling.temperature, std::nullopt) << members;
    EXPECT_EQ(request.generate.logprobs, std::nullopt) << members;
    EXPECT_EQ(request.generate.n, 1u) << members;
    EXPECT_EQ(request.generate.best_of, 0u) << members;
  }
  EXPECT_EQ(accepted(with(R"("max_tokens":5,"max_completion_tokens":9)")).generate.max_tokens, 9u);
  EXPECT_EQ(accepted(with(R"("max_tokens":99999999999)")).generate.max_tokens, 0xFFFFFFFFu);
}

TEST(ChatRequest, ReadsSampling) {
  const node::SamplingRequest s =
      accepted(with(R"("temperature":2,"top_p":1.0,"top_k":40,"min_p":0.5,"seed":-1,)"
                    R"("presence_penalty":-2,"frequency_penalty":2,"repeat_penalty":1.5,)"
                    R"("logit_bias":{"17":2.5,"5":-100})"))
          .generate.sampling;
  EXPECT_EQ(s.temperature, 2.0f);
  EXPECT_EQ(s.top_p, 1.0f);
  EXPECT_EQ(s.top_k, 40u);
  EXPECT_EQ(s.min_p, 0.5f);
  EXPECT_EQ(s.seed, 0xFFFF'FFFF'FFFF'FFFFull);
  EXPECT_EQ(s.presence_penalty, -2.0f);
  EXPECT_EQ(s.frequency_penalty, 2.0f);
  EXPECT_EQ(s.repetition_penalty, 1.5f);
  const std::vector<std::pair<TokenId, float>> biases = {{5, -100.0f}, {17, 2.5f}};
  EXPECT_EQ(s.logit_bias, biases);
  EXPECT_EQ(accepted(with(R"("top_k":-1)")).generate.sampling.top_k, 0u);
  EXPECT_EQ(accepted(with(R"("temperature":0)")).generate.sampling.temperature, 0.0f);
  EXPECT_EQ(accepted(with(R"("seed":-9223372036854775808)")).generate.sampling.seed, 1ull << 63);
  // The name of the model family's papers wins over llama.cpp's.
  EXPECT_EQ(accepted(with(R"("repetition_penalty":1.25,"repeat_penalty":1.5)"))
                .generate.sampling.repetition_penalty,
            1.25f);
}

TEST(ChatRequest, ReadsChoicesStopsAndScores) {
  const node::GenerateRequest g =
      accepted(with(R"("n":2,"best_of":16,"stop":["a","b"],"stop_token_ids":[7,0],)"
                    R"("include_stop_str_in_output":true,"ignore_eos":true,"min_tokens":3,)"
                    R"("max_tokens":3,"logprobs":true,"top_logprobs":20)"))
          .generate;
  EXPECT_EQ(g.n, 2u);
  EXPECT_EQ(g.best_of, 16u);
  EXPECT_EQ(g.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(g.stop_token_ids, (std::vector<TokenId>{7, 0}));
  EXPECT_TRUE(g.include_stop);
  EXPECT_TRUE(g.ignore_eos);
  EXPECT_EQ(g.min_tokens, 3u);
  EXPECT_EQ(g.logprobs, 20u);
  EXPECT_EQ(accepted(with(R"("stop":"END")")).generate.stop, std::vector<std::string>{"END"});
  EXPECT_EQ(accepted(with(R"("logprobs":true)")).generate.logprobs, 0u);
  EXPECT_EQ(accepted(with(R"("n":3,"best_of":3,"stream":true)")).generate.best_of, 0u);
  EXPECT_TRUE(accepted(with(R"("stream":true,"stream_options":{"continuous_usage_stats":true})"))
                  .continuous_usage);
}

TEST(ChatRequest, ContinuesTheLastMessageOnlyWhenAsked) {
  const std::string messages =
      R"("messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"Well"}])";
  const auto prompt = [](const AnswerRequest& request) {
    return std::get<node::ChatPrompt>(request.generate.prompts.at(0));
  };
  EXPECT_FALSE(prompt(accepted("{" + messages + "}")).continue_final);
  for (const char* more : {"", R"(,"add_generation_prompt":false)"})
    EXPECT_TRUE(prompt(accepted("{" + messages + R"(,"continue_final_message":true)" + more + "}"))
                    .continue_final);
}

struct Refusal {
  const char* members;
  const char* param;
  const char* says;
};

constexpr Refusal kRefusals[] = {
    {R"("temperature":2.1)", "temperature", "from 0 to 2; got 2.1"},
    {R"("temperature":-1)", "temperature", "from 0 to 2"},
    {R"("temperature":"0")", "temperature", "a number from 0 to 2; got \"0\""},
    {R"("top_p":0)", "top_p", "above 0 and at most 1; got 0"},
    {R"("top_p":1.1)", "top_p", "at most 1"},
    {R"("top_p":1e-99)", "top_p", "above 0"},
    {R"("top_k":-2)", "top_k", "-2"},
    {R"("top_k":1.5)", "top_k", "an integer"},
    {R"("min_p":1.5)", "min_p", "from 0 to 1"},
    {R"("typical_p":0.5)", "typical_p", "not built yet"},
    {R"("seed":"x")", "seed", "an integer of 64 bits; got \"x\""},
    {R"("seed":1.5)", "seed", "integer"},
    {R"("seed":9223372036854775808)", "seed", "integer"},
    {R"("n":0)", "n", "from 1 to 16"},
    {R"("n":17)", "n", "from 1 to 16; got 17"},
    {R"("n":true)", "n", "got true"},
    {R"("n":3,"best_of":2)", "best_of", "at least n, which is 3; got 2"},
    {R"("best_of":17)", "best_of", "from 1 to 16"},
    {R"("best_of":2,"stream":true)", "best_of", "\"stream\":true"},
    {R"("stop":"")", "stop", "empty"},
    {R"("stop":["a",""])", "stop", "stop[1] must not be an empty string"},
    {R"("stop":["a",5])", "stop", "stop[1] must be a string; got 5"},
    {R"("stop":5)", "stop", "must be"},
    {R"("stop":["1","2","3","4","5","6","7","8","9","0","1","2","3","4","5","6","7"])", "stop",
     "at most 16 strings; got a list of 17"},
    {R"("stop_token_ids":[-1])", "stop_token_ids", "stop_token_ids[0] must be a token id; got -1"},
    {R"("stop_token_ids":5)", "stop_token_ids", "a list of"},
    {R"("include_stop_str_in_output":1)", "include_stop_str_in_output", "true or false"},
    {R"("ignore_eos":"no")", "ignore_eos", "true or false"},
    {R"("min_tokens":-1)", "min_tokens", "at least 0"},
    {R"("min_tokens":6,"max_tokens":5)", "min_tokens", "at most max_tokens, which is 5; got 6"},
    {R"("logprobs":3)", "logprobs", "true or false"},
    {R"("top_logprobs":2)", "top_logprobs", "needs \"logprobs\":true"},
    {R"("logprobs":true,"top_logprobs":21)", "top_logprobs", "from 0 to 20; got 21"},
    {R"("prompt_logprobs":1)", "prompt_logprobs", "not built yet"},
    {R"("logit_bias":{"5":101})", "logit_bias", "logit_bias[\"5\"] must be a number from -100 to"},
    {R"("logit_bias":{"x":1})", "logit_bias", "\"x\", which is no token id"},
    {R"("logit_bias":{"05":1})", "logit_bias", "no token id"},
    {R"("logit_bias":{"-1":1})", "logit_bias", "no token id"},
    {R"("logit_bias":{"5":"1"})", "logit_bias", "got \"1\""},
    {R"("logit_bias":[1])", "logit_bias", "an object"},
    {R"("presence_penalty":2.5)", "presence_penalty", "from -2 to 2"},
    {R"("frequency_penalty":-2.5)", "frequency_penalty", "from -2 to 2"},
    {R"("repetition_penalty":0)", "repetition_penalty", "above 0"},
    {R"("repeat_penalty":-1)", "repeat_penalty", "above 0"},
    {R"("echo":true)", "echo", "not built yet"},
    {R"("suffix":"x")", "suffix", "not built yet"},
    {R"("use_beam_search":true)", "use_beam_search", "not built yet"},
    {R"("response_format":{"type":"json_object"})", "response_format", "not built yet"},
    {R"("response_format":"json")", "response_format", "must be"},
    {R"("json_schema":{})", "json_schema", "not built yet"},
    {R"("grammar":"root ::= x")", "grammar", "not built yet"},
    {R"("structured_outputs":{})", "structured_outputs", "not built yet"},
    {R"("guided_regex":"a")", "guided_regex", "not built yet"},
    {R"("functions":[{}])", "functions", "not built yet"},
    {R"("function_call":"auto")", "function_call", "not built yet"},
    {R"("skip_special_tokens":false)", "skip_special_tokens", "not built yet"},
    {R"("bad_words":["x"])", "bad_words", "not built yet"},
    {R"("continue_final_message":true)", "continue_final_message", "got one of the user"},
    {R"("continue_final_message":5)", "continue_final_message", "true or false"},
    {R"("add_generation_prompt":false)", "add_generation_prompt", "continue_final_message"},
    {R"("reasoning_format":"deepseek")", "reasoning_format", "not built yet"},
    {R"("audio":{})", "audio", "not built yet"},
    {R"("tools":[{"type":"function"}])", "tools", "not built yet"},
    {R"("tools":{})", "tools", "must be a list"},
    {R"("tools":[{}],"tool_choice":"required")", "tool_choice", "not built yet"},
    {R"("tool_choice":"required")", "tool_choice", "needs a list of tools"},
    {R"("tool_choice":{"type":"function"})", "tool_choice", "needs a list of tools"},
    {R"("tool_choice":"sometimes")", "tool_choice", "sometimes"},
    {R"("tool_choice":1)", "tool_choice", "must be"},
    {R"("max_tokens":0)", "max_tokens", "at least 1; got 0"},
    {R"("max_tokens":-5)", "max_tokens", "at least 1; got -5"},
    {R"("max_tokens":1.5)", "max_tokens", "integer"},
    {R"("max_tokens":"many")", "max_tokens", "integer"},
    {R"("max_completion_tokens":0)", "max_completion_tokens", "at least 1"},
    {R"("stream":"yes")", "stream", "true or false; got \"yes\""},
    {R"("stream_options":{"include_usage":true})", "stream_options", "\"stream\":true"},
    {R"("stream":false,"stream_options":{})", "stream_options", "\"stream\":true"},
    {R"("stream":true,"stream_options":7)", "stream_options", "an object"},
    {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage",
     "true or false"},
    {R"("model":5)", "model", "a string; got 5"},
    {R"("chat_template_kwargs":[])", "chat_template_kwargs", "an object; got a list of 0"},
};

TEST(ChatRequest, RefusesByName) {
  for (const Refusal& c : kRefusals) {
    SCOPED_TRACE(c.members);
    const ApiError error = refused(with(c.members));
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(error.type, "invalid_request_error");
    EXPECT_EQ(error.param, c.param);
    EXPECT_NE(error.message.find(c.says), std::string::npos) << error.message;
    EXPECT_NE(error.message.find(c.param), std::string::npos) << error.message;
  }
  std::string biases = "\"logit_bias\":{\"0\":1";
  for (int i = 1; i <= 1024; ++i) biases += ",\"" + std::to_string(i) + "\":1";
  EXPECT_NE(refused(with(biases + "}")).message.find("1025 entries"), std::string::npos);
}

AnswerRequest completion(const std::string& body) {
  auto parsed = parse_completion_request(body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << body << ": " << error->message;
    return {};
  }
  return std::get<AnswerRequest>(parsed);
}

TEST(CompletionRequest, ReadsPromptsOfAllKinds) {
  using Ids = std::vector<TokenId>;
  using Prompts = std::vector<node::PromptInput>;
  const auto prompts = [](const std::string& prompt) {
    return completion("{\"prompt\":" + prompt + "}").generate.prompts;
  };
  EXPECT_EQ(prompts(R"("a")").size(), 1u);
  EXPECT_EQ(std::get<std::string>(prompts(R"("a")")[0]), "a");
  const Prompts texts = prompts(R"(["a","b"])");
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(std::get<std::string>(texts[1]), "b");
  const Prompts ids = prompts("[1,2]");
  ASSERT_EQ(ids.size(), 1u);
  EXPECT_EQ(std::get<Ids>(ids[0]), (Ids{1, 2}));
  const Prompts lists = prompts("[[1],[2,3]]");
  ASSERT_EQ(lists.size(), 2u);
  EXPECT_EQ(std::get<Ids>(lists[1]), (Ids{2, 3}));
  const AnswerRequest scored =
      completion(R"({"prompt":"a","echo":true,"max_tokens":0,"logprobs":0,"model":"m"})");
  EXPECT_TRUE(scored.generate.echo);
  EXPECT_EQ(scored.generate.max_tokens, 0u);
  EXPECT_EQ(scored.generate.logprobs, 0u);
  EXPECT_EQ(scored.model, "m");
  EXPECT_EQ(completion(R"({"prompt":"a","n":2,"temperature":1,"suffix":null})").generate.n, 2u);
}

TEST(CompletionRequest, RefusesByName) {
  std::string many = "{\"prompt\":[\"x\"";
  for (int i = 1; i < 129; ++i) many += ",\"x\"";
  const std::string sequences = [] {
    std::string out = "{\"n\":16,\"prompt\":[\"x\"";
    for (int i = 1; i < 17; ++i) out += ",\"x\"";
    return out + "]}";
  }();
  many += "]}";
  const Refusal kCases[] = {
      {"{}", "prompt", "missing"},
      {R"({"prompt":5})", "prompt", "got 5"},
      {R"({"prompt":[]})", "prompt", "empty"},
      {R"({"prompt":[[]]})", "prompt", "prompt[0] must not be empty"},
      {R"({"prompt":["a",5]})", "prompt", "prompt[1] must be a string; got 5"},
      {R"({"prompt":[[1],"a"]})", "prompt", "prompt[1] must be a list of token ids; got \"a\""},
      {R"({"prompt":[1,"a"]})", "prompt", "prompt[1] must be a token id; got \"a\""},
      {R"({"prompt":[[1],[2,-3]]})", "prompt", "prompt[1][1] must be a token id; got -3"},
      {R"({"prompt":[4194304]})", "prompt", "token id"},
      {many.c_str(), "prompt", "129 entries, at most 128"},
      {sequences.c_str(), "n", "at most 256; got 272"},
      {R"({"prompt":"a","suffix":"b"})", "suffix", "not built yet"},
      {R"({"prompt":"a","logprobs":21})", "logprobs", "from 0 to 20"},
      {R"({"prompt":"a","logprobs":true})", "logprobs", "integer"},
      {R"({"prompt":"a","max_tokens":0})", "max_tokens", "at least 1"},
      {R"({"prompt":"a","echo":1})", "echo", "true or false"},
      {R"({"prompt":"a","echo":true,"stream":true,"stream_options":)"
       R"({"continuous_usage_stats":true}})",
       "stream_options.continuous_usage_stats", "echo"},
      {R"({"prompt":"a","temperature":3})", "temperature", "from 0 to 2"},
      {R"({"prompt":"a","best_of":2,"stream":true})", "best_of", "stream"},
  };
  for (const Refusal& c : kCases) {
    SCOPED_TRACE(c.members);
    auto parsed = parse_completion_request(c.members);
    ASSERT_TRUE(std::holds_alternative<ApiError>(parsed));
    const ApiError& error = std::get<ApiError>(parsed);
    EXPECT_EQ(error.param, c.param);
    EXPECT_NE(error.message.find(c.says), std::string::npos) << error.message;
  }
}

TEST(TokenizeRequest, ReadsTextsAndChats) {
  const auto read = [](const char* body) {
    auto parsed = parse_tokenize_request(body);
    EXPECT_TRUE(std::holds_alternative<TokenizeCall>(parsed)) << body;
    return std::holds_alternative<TokenizeCall>(parsed) ? std::get<TokenizeCall>(parsed)
                                                        : TokenizeCall{};
  };
  const TokenizeCall text = read(R"({"prompt":"a","with_pieces":true})");
  EXPECT_EQ(std::get<std::string>(text.request.prompt), "a");
  EXPECT_TRUE(text.request.add_special);
  EXPECT_TRUE(text.with_pieces);
  const TokenizeCall content = read(R"({"content":"","add_special_tokens":false})");
  EXPECT_EQ(std::get<std::string>(content.request.prompt), "");
  EXPECT_FALSE(content.request.add_special);
  EXPECT_FALSE(content.with_pieces);
  const TokenizeCall chat = read(R"({"messages":[{"role":"user","content":"hi"}]})");
  EXPECT_EQ(std::get<node::ChatPrompt>(chat.request.prompt).messages_json,
            R"([{"role":"user","content":"hi"}])");
  for (const char* body : {"{}", R"({"prompt":"a","content":"b"})", R"({"prompt":5})",
                           R"({"messages":[]})", R"({"prompt":"a","with_pieces":1})"})
    EXPECT_TRUE(std::holds_alternative<ApiError>(parse_tokenize_request(body))) << body;

  auto tokens = parse_detokenize_request(R"({"tokens":[3,1]})");
  ASSERT_TRUE(std::holds_alternative<DetokenizeCall>(tokens));
  EXPECT_EQ(std::get<DetokenizeCall>(tokens).tokens, (std::vector<TokenId>{3, 1}));
  for (const char* body : {"{}", R"({"tokens":["a"]})", R"({"tokens":5})"})
    EXPECT_TRUE(std::holds_alternative<ApiError>(parse_detokenize_request(body))) << body;
}

TEST(TokenizeRequest, WritesAnswers) {
  EXPECT_EQ(tokenize_json({{5, "a", {}, {}}, {9, "\xC3", {}, {}}}, 512, true),
            "{\"tokens\":[5,9],\"count\":2,\"max_model_len\":512,"
            "\"token_strs\":[\"a\",\"\xEF\xBF\xBD\"]}");
  EXPECT_EQ(tokenize_json({}, 512, false), R"({"tokens":[],"count":0,"max_model_len":512})");
  EXPECT_EQ(detokenize_json("a\"b"), R"({"prompt":"a\"b","content":"a\"b"})");
}

TEST(ChatRequest, ChecksMessages) {
  const Refusal kCases[] = {
      {"{}", "messages", "missing"},
      {R"({"messages":"hi"})", "messages", "a list; got \"hi\""},
      {R"({"messages":[]})", "messages", "empty"},
      {R"({"messages":[5]})", "messages[0]", "an object; got 5"},
      {R"({"messages":[{"content":"x"}]})", "messages[0].role", "missing"},
      {R"({"messages":[{"role":"king","content":"x"}]})", "messages[0].role", "king"},
      {R"({"messages":[{"role":5,"content":"x"}]})", "messages[0].role", "got 5"},
      {R"({"messages":[{"role":"user"}]})", "messages[0].content", "missing"},
      {R"({"messages":[{"role":"user","content":5}]})", "messages[0].content", "got 5"},
      {R"({"messages":[{"role":"user","content":null}]})", "messages[0].content", "got null"},
      {R"({"messages":[{"role":"user","content":["x"]}]})", "messages[0].content[0]", "object"},
      {R"({"messages":[{"role":"user","content":"a"},{"role":"user","content":)"
       R"([{"type":"text","text":"x"},{"type":"image_url","image_url":{"url":"data:,"}}]}]})",
       "messages[1].content[1]", "image_url"},
      {R"({"messages":[{"role":"user","content":[{"type":"input_audio"}]}]})",
       "messages[0].content[0]", "input_audio"},
      {R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})",
       "messages[0].content[0].text", "string"},
  };
  for (const Refusal& c : kCases) {
    SCOPED_TRACE(c.members);
    const ApiError error = refused(c.members);
    EXPECT_EQ(error.param, c.param);
    EXPECT_NE(error.message.find(c.says), std::string::npos) << error.message;
  }
  for (const char* good :
       {R"({"messages":[{"role":"system","content":"a"},{"role":"developer","content":"b"},)"
        R"({"role":"user","content":[{"type":"text","text":"c"}]},)"
        R"({"role":"assistant","content":null,"tool_calls":[]},{"role":"assistant"},)"
        R"({"role":"tool","content":"d","tool_call_id":"x"}]})",
        R"({"messages":[{"role":"user","content":[]}]})"})
    accepted(good);
}

TEST(ChatRequest, GivesTheTemplateTextWhereTheClientSentPartsOrNull) {
  const AnswerRequest request = accepted(
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},)"
      R"({"type":"text","text":"b"}],"name":"n"},{"role":"assistant","content":null,"x":1},)"
      R"({"role":"user","content":[]}]})");
  EXPECT_EQ(std::get<node::ChatPrompt>(request.generate.prompts.at(0)).messages_json,
            R"([{"role":"user","content":"a\nb","name":"n"},)"
            R"({"role":"assistant","content":"","x":1},{"role":"user","content":""}])");
}

TEST(ChatRequest, SaysWhereTheJsonIsBroken) {
  EXPECT_EQ(refused("").message, "The body is empty; send a JSON object with \"messages\".");
  EXPECT_EQ(refused(R"({"messages":[}")").message,
            "The body is not valid JSON in UTF-8: see byte 14 of 15.");
  const ApiError huge =
      refused(R"({"messages":[{"role":"user","content":"x"}],"max_tokens":1e400})");
  EXPECT_EQ(huge.status, 400);
  EXPECT_NE(huge.message.find("1e400"), std::string::npos) << huge.message;
}

TEST(ChatRequest, RefusesWhatIsNoJsonObject) {
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("hello"), std::string("[]"),
        std::string("null"), std::string("\"x\""), std::string("5"), with("\"a\":\xFF"),
        std::string("{\"messages\":[{\"role\":\"user\",\"content\":\"\xC3(\"}]}"),
        std::string(R"({"messages":[{"role":"user","content":"\ud800"}]})"), std::string("\0\0", 2),
        std::string(1'000'000, '['), std::string(1'000'000, '{')}) {
    const ApiError error = refused(body);
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(error.param, "");
    const json object = json::parse(error_json(error));
    EXPECT_TRUE(object["error"]["param"].is_null());
    EXPECT_TRUE(object["error"]["code"].is_null());
    EXPECT_TRUE(object["error"]["message"].is_string());
  }
  EXPECT_EQ(refused(with("\"a\":" + std::string(100, '[') + std::string(100, ']'))).param, "");
}

TEST(ChatRequest, SurvivesDamagedBodies) {
  const std::string good = with(
      R"("model":"m","stream":true,"stream_options":{"include_usage":true},"stop":["a"],"n":1)");
  const std::uint64_t seed = 77;
  SCOPED_TRACE(seed);
  Prng prng(seed);
  for (int round = 0; round < 20'000; ++round) {
    std::string body = good;
    for (std::uint64_t i = 1 + prng.below(4); i > 0; --i) {
      const std::size_t at = prng.below(body.size());
      if (prng.below(3) == 0)
        body.erase(at, 1 + prng.below(5));
      else
        body[at] = static_cast<char>(prng.below(256));
      if (body.empty()) body = "{";
    }
    (void)parse_completion_request(body);
    const auto parsed = parse_chat_request(body);
    if (const auto* error = std::get_if<ApiError>(&parsed)) {
      ASSERT_EQ(error->status, 400);
      ASSERT_FALSE(json::parse(error_json(*error), nullptr, false).is_discarded());
    }
  }
}

}  // namespace
}  // namespace mesh::api
