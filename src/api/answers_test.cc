#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "api/answer_json.h"
#include "api/api_error.h"
#include "api/http_counts.h"

namespace mesh::api {
namespace {

using nlohmann::json;

json chunk_of(const std::string& event) {
  EXPECT_EQ(event.substr(0, 6), "data: ");
  EXPECT_EQ(event.substr(event.size() - 2), "\n\n");
  return json::parse(event.substr(6), nullptr, false);
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
  EXPECT_EQ(error_from_mesh(kCases[1].error, status, "").param, "messages");
  EXPECT_EQ(error_from_mesh(kCases[1].error, status, "", "prompt").param, "prompt");
  const Error bias(Code::kInvalidArgument, "logit_bias names token 900, the vocabulary has 768");
  EXPECT_EQ(error_from_mesh(bias, status, "").param, "logit_bias");
  status.retry_after_s = 7;
  EXPECT_EQ(error_from_mesh(kCases[5].error, status, "").retry_after_s, 7u);

  status.ready = false;
  EXPECT_EQ(error_from_mesh(kCases[6].error, status, "").code, "model_loading");
  status.missing = {{3, 6}, {8, 9}};
  status.waiting_for = "one more node";
  const ApiError incomplete = error_from_mesh(kCases[6].error, status, "");
  EXPECT_EQ(incomplete.code, "cluster_incomplete");
  EXPECT_EQ(incomplete.retry_after_s, 7u);
  EXPECT_NE(incomplete.message.find("3:6, 8:9"), std::string::npos);
  EXPECT_NE(incomplete.message.find("one more node"), std::string::npos);

  status.model = "m";
  status.missing = {{3, 6}};
  status.waiting_for = "layers 3:6 have no ready node";
  EXPECT_EQ(unavailable_error(status, status.waiting_for).message,
            "m is not complete: layers 3:6 have no ready node");
}

TEST(AnswerWriter, WritesChatChunks) {
  const AnswerWriter writer({AnswerKind::kChat, "chatcmpl-1", 5, "a \"model", "fp_1"});
  json chunk = chunk_of(writer.text_event(2, "he\"llo", "null", "null"));
  EXPECT_EQ(chunk, json::parse(R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":5,
      "model":"a \"model","system_fingerprint":"fp_1","usage":null,
      "choices":[{"index":2,"delta":{"content":"he\"llo"},"logprobs":null,
      "finish_reason":null}]})"));
  chunk = chunk_of(writer.role_event(1, ""));
  EXPECT_EQ(chunk["choices"], json::parse(R"([{"index":1,"delta":{"role":"assistant","content":""},
      "logprobs":null,"finish_reason":null}])"));
  EXPECT_FALSE(chunk.contains("usage"));
  ChoiceText last;
  last.reason = node::FinishReason::kLength;
  chunk = chunk_of(writer.finish_event(0, last, "", AnswerTimings{{4, 3, 2}, {}}));
  EXPECT_EQ(chunk["choices"], json::parse(R"([{"index":0,"delta":{},"logprobs":null,
      "finish_reason":"length","stop_reason":null}])"));
  EXPECT_EQ(chunk["timings"], json::parse(R"({"queue_ms":0.0,"prompt_n":4,"cache_n":2,
      "prompt_ms":0.0,"predicted_n":3,"predicted_ms":0.0,"predicted_per_second":0.0})"));
  chunk = chunk_of(writer.usage_event({4, 3, 2}));
  EXPECT_EQ(chunk["choices"], json::array());
  EXPECT_EQ(chunk["usage"], json::parse(R"({"prompt_tokens":4,"completion_tokens":3,
      "total_tokens":7,"prompt_tokens_details":{"cached_tokens":2}})"));
}

TEST(AnswerWriter, WritesPlainChunksAndBodies) {
  const AnswerWriter writer({AnswerKind::kText, "cmpl-1", 5, "m", "fp_1"});
  EXPECT_EQ(chunk_of(writer.text_event(0, "x", "null", "")),
            json::parse(R"({"id":"cmpl-1","object":"text_completion","created":5,"model":"m",
            "system_fingerprint":"fp_1","choices":[{"index":0,"text":"x","logprobs":null,
            "finish_reason":null}]})"));
  ChoiceText first, second;
  first.text = "a";
  first.stop_reason = "\"END\"";
  second.text = "b";
  second.reason = node::FinishReason::kLength;
  const json body = json::parse(writer.whole({first, second}, {{1, 2, 0}, {}}));
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["choices"], json::parse(R"([
      {"index":0,"text":"a","logprobs":null,"finish_reason":"stop","stop_reason":"END"},
      {"index":1,"text":"b","logprobs":null,"finish_reason":"length","stop_reason":null}])"));
}

const std::vector<node::TokenText> kTokens = {
    {7, "h\xC3", -0.5f, {{7, "h\xC3", -0.5f}, {8, "ho", -1.5f}}},
    {9, "\xA4", -2.0f, {{3, "x", -0.25f}, {9, "\xA4", -2.0f}}},
    {5, "!", -1.0f, {}}};

TEST(ScoreText, GivesChatsExactBytes) {
  ScoreText scores(AnswerKind::kChat, 1);
  for (const node::TokenText& token : kTokens) scores.add(token);
  EXPECT_EQ(json::parse(scores.take()), json::parse(R"({"content":[
      {"token":"h\uFFFD","logprob":-0.5,"bytes":[104,195],
       "top_logprobs":[{"token":"h\uFFFD","logprob":-0.5,"bytes":[104,195]}]},
      {"token":"\uFFFD","logprob":-2.0,"bytes":[164],
       "top_logprobs":[{"token":"x","logprob":-0.25,"bytes":[120]}]},
      {"token":"!","logprob":-1.0,"bytes":[33],"top_logprobs":[]}],"refusal":null})"));
  EXPECT_TRUE(scores.empty());
  EXPECT_EQ(scores.take(), R"({"content":[],"refusal":null})");
}

TEST(ScoreText, GivesLegacyListsWithOffsetsInCharacters) {
  ScoreText scores(AnswerKind::kText, 1);
  scores.add({1, "\xC3\xA4z", std::nullopt, {}});  // an echoed prompt's first token has no score
  for (const node::TokenText& token : kTokens) scores.add(token);
  EXPECT_EQ(json::parse(scores.take()), json::parse(R"({
      "tokens":["\u00e4z","bytes:\\x68\\xc3","bytes:\\xa4","!"],
      "token_logprobs":[null,-0.5,-2.0,-1.0],
      "top_logprobs":[null,{"bytes:\\x68\\xc3":-0.5},{"x":-0.25,"bytes:\\xa4":-2.0},{"!":-1.0}],
      "text_offset":[0,2,3,4]})"));
  scores.add({5, "?", -1.0f, {}});  // the next chunk of a stream goes on counting
  EXPECT_EQ(json::parse(scores.take())["text_offset"], json::parse("[5]"));
  scores.add({5, "?", -std::numeric_limits<float>::infinity(), {}});
  EXPECT_EQ(json::parse(scores.take())["token_logprobs"], json::parse("[-9999.0]"));
}

TEST(Answers, TellStringsFromTokensThatStopped) {
  EXPECT_EQ(stop_reason_json("", {"5"}), "null");
  EXPECT_EQ(stop_reason_json("5", {"END"}), "5");
  EXPECT_EQ(stop_reason_json("5", {"END", "5"}), "\"5\"");
  EXPECT_EQ(stop_reason_json("END", {"END"}), "\"END\"");
  EXPECT_EQ(stop_reason_json("05", {}), "\"05\"");
}

TEST(Answers, TimeTheirParts) {
  EXPECT_EQ(server_timing({milliseconds(2), milliseconds(20), milliseconds(100)}),
            "queue;dur=2, prefill;dur=18, decode;dur=100");
}

TEST(HttpCounts, ArePrometheusText) {
  HttpTally tally;
  tally.connections = 3;
  tally.connections_open = 1;
  tally.answered(200);
  tally.answered(404);
  tally.answered(499);
  tally.slow_clients = 2;
  const std::string text = http_metrics_text(tally.read());
  for (const char* line :
       {"# TYPE mesh_http_connections gauge\nmesh_http_connections 1\n",
        "mesh_http_connections_total 3\n", "mesh_http_requests_total{status=\"2xx\"} 1\n",
        "mesh_http_requests_total{status=\"4xx\"} 2\n",
        "mesh_http_requests_total{status=\"5xx\"} 0\n", "mesh_http_slow_clients_total 2\n",
        "mesh_http_backpressure_total 0\n"})
    EXPECT_NE(text.find(line), std::string::npos) << line;
}

}  // namespace
}  // namespace mesh::api
