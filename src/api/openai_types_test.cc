#include "api/openai_types.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/random.h"

namespace mesh::api {
namespace {

using nlohmann::json;

const std::string kMessages = R"("messages":[{"role":"user","content":"hi"}])";

std::string with(const std::string& members) {
  return "{" + kMessages + "," + members + "}";
}

ChatRequest accepted(const std::string& body) {
  auto parsed = parse_chat_request(body);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << body << ": " << error->message;
    return {};
  }
  return std::get<ChatRequest>(parsed);
}

ApiError refused(const std::string& body) {
  auto parsed = parse_chat_request(body);
  if (std::holds_alternative<ApiError>(parsed)) return std::get<ApiError>(parsed);
  ADD_FAILURE() << body << " was accepted";
  return {};
}

TEST(ChatRequest, ReadsWhatExists) {
  const ChatRequest request =
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
  const ChatRequest request = accepted("{" + kMessages + "}");
  EXPECT_FALSE(request.stream);
  EXPECT_FALSE(request.include_usage);
  EXPECT_EQ(request.model, "");
  EXPECT_EQ(request.generate.max_tokens, std::nullopt);
  EXPECT_EQ(std::get<node::ChatPrompt>(request.generate.prompts.at(0)).template_json, "");
}

TEST(ChatRequest, AcceptsNeutralValuesAndIgnoresTheRest) {
  for (const char* members : {R"("temperature":null)",
                              R"("temperature":0.0)",
                              R"("top_p":1)",
                              R"("top_p":1.0)",
                              R"("top_k":-1)",
                              R"("top_k":0)",
                              R"("min_p":0)",
                              R"("seed":42)",
                              R"("seed":null)",
                              R"("n":1)",
                              R"("best_of":1)",
                              R"("stop":null)",
                              R"("stop":[])",
                              R"("logit_bias":{})",
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
                              R"("presence_penalty":0)",
                              R"("frequency_penalty":0.0)",
                              R"("repetition_penalty":1)",
                              R"("min_tokens":0)",
                              R"("ignore_eos":false)",
                              R"("echo":false)",
                              R"("suffix":"")",
                              R"("stop_token_ids":[])",
                              R"("add_generation_prompt":true)",
                              R"("user":"u")",
                              R"("metadata":{"a":1})",
                              R"("store":true)",
                              R"("service_tier":"auto")",
                              R"("modalities":["text"])",
                              R"("prediction":{})",
                              R"("never_heard_of":[[1]])",
                              R"("stream_options":null)",
                              R"("max_tokens":null)",
                              R"("max_completion_tokens":null)",
                              R"("model":null)",
                              R"("model":"")",
                              R"("chat_template_kwargs":null)",
                              R"("stream":null)"})
    accepted(with(members));
  EXPECT_EQ(accepted(with(R"("max_tokens":5,"max_completion_tokens":9)")).generate.max_tokens, 9u);
  EXPECT_EQ(accepted(with(R"("max_tokens":99999999999)")).generate.max_tokens, 0xFFFFFFFFu);
}

struct Refusal {
  const char* members;
  const char* param;
  const char* says;
};

TEST(ChatRequest, RefusesByName) {
  const Refusal kCases[] = {
      {R"("temperature":0.7)", "temperature", "temperature other than 0 is not built yet"},
      {R"("temperature":2.1)", "temperature", "from 0 to 2"},
      {R"("temperature":-1)", "temperature", "from 0 to 2"},
      {R"("temperature":"0")", "temperature", "\"0\""},
      {R"("top_p":0.9)", "top_p", "not built yet"},
      {R"("top_p":"x")", "top_p", "must be a number"},
      {R"("top_k":40)", "top_k", "not built yet"},
      {R"("min_p":0.1)", "min_p", "not built yet"},
      {R"("typical_p":0.5)", "typical_p", "not built yet"},
      {R"("seed":"x")", "seed", "integer"},
      {R"("seed":1.5)", "seed", "integer"},
      {R"("n":2)", "n", "not built yet"},
      {R"("best_of":2)", "best_of", "not built yet"},
      {R"("stop":"END")", "stop", "not built yet"},
      {R"("stop":["a"])", "stop", "not built yet"},
      {R"("stop":"")", "stop", "empty"},
      {R"("stop":5)", "stop", "must be"},
      {R"("stop_token_ids":[1])", "stop_token_ids", "not built yet"},
      {R"("include_stop_str_in_output":true)", "include_stop_str_in_output", "not built yet"},
      {R"("logprobs":true)", "logprobs", "not built yet"},
      {R"("logprobs":3)", "logprobs", "true or false"},
      {R"("top_logprobs":2)", "top_logprobs", "not built yet"},
      {R"("prompt_logprobs":1)", "prompt_logprobs", "not built yet"},
      {R"("logit_bias":{"5":1})", "logit_bias", "not built yet"},
      {R"("presence_penalty":0.5)", "presence_penalty", "not built yet"},
      {R"("frequency_penalty":-0.5)", "frequency_penalty", "not built yet"},
      {R"("repetition_penalty":1.1)", "repetition_penalty", "not built yet"},
      {R"("repeat_penalty":1.1)", "repeat_penalty", "not built yet"},
      {R"("min_tokens":3)", "min_tokens", "not built yet"},
      {R"("ignore_eos":true)", "ignore_eos", "not built yet"},
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
      {R"("continue_final_message":true)", "continue_final_message", "not built yet"},
      {R"("add_generation_prompt":false)", "add_generation_prompt", "not built yet"},
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
      {R"("stream":true,"stream_options":{"continuous_usage_stats":true})",
       "stream_options.continuous_usage_stats", "not built yet"},
      {R"("model":5)", "model", "a string; got 5"},
      {R"("chat_template_kwargs":[])", "chat_template_kwargs", "an object; got a list of 0"},
  };
  for (const Refusal& c : kCases) {
    SCOPED_TRACE(c.members);
    const ApiError error = refused(with(c.members));
    EXPECT_EQ(error.status, 400);
    EXPECT_EQ(error.type, "invalid_request_error");
    EXPECT_EQ(error.param, c.param);
    EXPECT_NE(error.message.find(c.says), std::string::npos) << error.message;
    EXPECT_NE(error.message.find(c.param), std::string::npos) << error.message;
  }
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
  const ChatRequest request = accepted(
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
    const auto parsed = parse_chat_request(body);
    if (const auto* error = std::get_if<ApiError>(&parsed)) {
      ASSERT_EQ(error->status, 400);
      ASSERT_FALSE(json::parse(error_json(*error), nullptr, false).is_discarded());
    }
  }
}

TEST(MeshErrors, MapToStatusTypeAndCode) {
  node::MeshStatus status;
  status.model = "m";
  status.ready = true;
  const struct {
    Error error;
    int status;
    const char* type;
    const char* code;
  } kCases[] = {
      {Error(Code::kInvalidArgument, "x"), 400, "invalid_request_error", ""},
      {Error(Code::kInvalidArgument, std::string(kContextLengthPrefix) + "9 of 8"), 400,
       "invalid_request_error", "context_length_exceeded"},
      {Error(Code::kUnsupported, "x"), 400, "invalid_request_error", "unsupported"},
      {Error(Code::kNotFound, "x"), 404, "not_found_error", "not_found"},
      {Error(Code::kPermissionDenied, "x"), 403, "permission_error", "permission_denied"},
      {Error(Code::kResourceExhausted, "x"), 429, "rate_limit_error", "queue_full"},
      {Error(Code::kUnavailable, "x"), 503, "unavailable_error", "unavailable"},
      {Error(Code::kDeadlineExceeded, "x"), 504, "server_error", "node_timeout"},
      {Error(Code::kCancelled, "x"), 499, "server_error", "cancelled"},
      {Error(Code::kCorrupt, "x"), 500, "server_error", "server_error"},
      {Error(Code::kInternal, "x"), 500, "server_error", "server_error"},
  };
  for (const auto& c : kCases) {
    const ApiError error = error_from_mesh(c.error, status, "req-1");
    EXPECT_EQ(error.status, c.status);
    EXPECT_EQ(error.type, c.type);
    EXPECT_EQ(error.code, c.code);
    EXPECT_EQ(error.status >= 500 && error.status != 503,
              error.message.find("req-1") != std::string::npos && error.status != 499);
  }
  EXPECT_EQ(error_from_mesh(kCases[1].error, status, "").message, "9 of 8");

  status.ready = false;
  EXPECT_EQ(error_from_mesh(kCases[6].error, status, "").code, "model_loading");
  status.missing = {{3, 6}, {8, 9}};
  status.waiting_for = "one more node";
  const ApiError incomplete = error_from_mesh(kCases[6].error, status, "");
  EXPECT_EQ(incomplete.code, "cluster_incomplete");
  EXPECT_GT(incomplete.retry_after_s, 0u);
  EXPECT_NE(incomplete.message.find("3:6, 8:9"), std::string::npos);
  EXPECT_NE(incomplete.message.find("one more node"), std::string::npos);

  status.model = "m";
  status.missing = {{3, 6}};
  status.waiting_for = "layers 3:6 have no ready node";
  EXPECT_EQ(unavailable_error(status, status.waiting_for).message,
            "m is not complete: layers 3:6 have no ready node");
}

TEST(Answers, TextFrameIsTheSameAsADocument) {
  AnswerIdentity identity{"chatcmpl-1", 5, "a \"delta\":{\"content\":\"\" model", "fp_1", true};
  const ChunkFrame frame = text_chunk_frame(identity);
  const std::string text = frame.before + "\"hello\"" + frame.after;
  ASSERT_EQ(text.substr(0, 6), "data: ");
  ASSERT_EQ(text.substr(text.size() - 2), "\n\n");
  const json chunk = json::parse(text.substr(6));
  EXPECT_EQ(chunk, json::parse(R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,
      "model":"a \"delta\":{\"content\":\"\" model","system_fingerprint":"fp_1","usage":null,
      "choices":[{"index":0,"delta":{"content":"hello"},"logprobs":null,"finish_reason":null}]})"));
}

}  // namespace
}  // namespace mesh::api
