// Real processes on loopback: the main path, and what a user sees when a part of it goes.

#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/coverage.h"
#include "mesh_process.h"
#include "model/random_model.h"

namespace mesh::loopback {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

std::string content(const Reply& reply) {
  const Json json = Json::parse(reply.body, nullptr, false);
  if (!json.is_object() || !json.contains("choices")) return "no answer: " + reply.body;
  return json["choices"][0]["message"]["content"];
}

// The text, error and finish reason of a stream of server-sent events.
struct Streamed {
  std::string text, error, error_type, finish;
  int chunks = 0;
  bool done = false;
};

Streamed parse_stream(const std::string& body) {
  Streamed out;
  std::istringstream lines(body);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("data: ", 0) != 0) continue;
    if (line == "data: [DONE]") {
      out.done = true;
      continue;
    }
    const Json json = Json::parse(line.substr(6));
    if (json.contains("error")) {
      out.error = json["error"]["message"];
      out.error_type = json["error"]["type"];
      continue;
    }
    ++out.chunks;
    for (const Json& choice : json["choices"]) {
      if (choice["delta"].contains("content") && choice["delta"]["content"].is_string())
        out.text += choice["delta"]["content"].get<std::string>();
      if (choice["finish_reason"].is_string()) out.finish = choice["finish_reason"];
    }
  }
  return out;
}

std::vector<Json> golden_chats() {
  std::ifstream file(MESH_POCKET "/golden.json");
  const Json all = Json::parse(file);
  std::vector<Json> plain;
  for (const Json& chat : all)
    if (chat["tools"].is_null() && !chat["enable_thinking"].get<bool>()) plain.push_back(chat);
  return plain;
}

TEST(Mesh, AnyOfThreeNodesAnswersAsTheReferenceDoes) {
  const ScratchDir scratch;
  const auto mesh = start_mesh(scratch, 3);
  for (const auto& node : mesh) ASSERT_TRUE(node->ready()) << node->process().output();
  const std::vector<Json> chats = golden_chats();
  ASSERT_GE(chats.size(), 30u);
  for (std::size_t i = 0; i < 30; ++i) {
    const Json body = {{"messages", chats[i]["messages"]}};
    const Reply reply = http(mesh[i % 3]->url() + "/v1/chat/completions", body.dump());
    ASSERT_EQ(reply.status, 200) << reply.body;
    EXPECT_EQ(content(reply), chats[i]["answer"].get<std::string>()) << chats[i]["messages"].dump();
    const Json usage = Json::parse(reply.body)["usage"];
    EXPECT_EQ(usage["prompt_tokens"], chats[i]["prompt_ids"].size());
  }
  // Each node says the same of all of them once their counters have travelled, which they do with
  // the heartbeats: a count of pages may be older than the answer's end.
  for (const auto& node : mesh) {
    std::string why;
    EXPECT_TRUE(eventually(seconds(10), [&] {
      const std::string status = http(node->url() + "/mesh/status").body;
      const Result<std::string> covered = cli::check_coverage(status);
      why = covered.ok() ? "" : covered.error().message;
      if (!covered.ok()) return false;
      const Json nodes = Json::parse(status)["nodes"];
      EXPECT_EQ(nodes.size(), 3u);
      for (const Json& of : nodes)
        if (of["pages_used"] != 0) why += "pages are held: " + of.dump() + "\n";
      return why.empty();
    })) << why;
  }
}

TEST(Mesh, StreamsTheSameTextAsItReturnsWhole) {
  const ScratchDir scratch;
  const auto mesh = start_mesh(scratch, 2);
  ASSERT_TRUE(mesh[1]->ready()) << mesh[1]->process().output();
  const std::string whole = content(mesh[0]->ask("Count to 30"));
  const Reply reply = mesh[1]->ask("Count to 30", R"("stream":true)");
  const Streamed streamed = parse_stream(reply.body);
  EXPECT_EQ(streamed.text, whole);
  EXPECT_GT(streamed.chunks, 10);
  EXPECT_EQ(streamed.finish, "stop");
  EXPECT_TRUE(streamed.done);
  const Reply cut = mesh[0]->ask("Count to 30", R"("max_tokens":5)");
  EXPECT_EQ(Json::parse(cut.body)["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(Json::parse(cut.body)["usage"]["completion_tokens"], 5);
}

// Slow and endless: random weights seldom choose a stop token.
std::string write_slow_model(const ScratchDir& scratch, const std::string& name,
                             std::uint64_t seed) {
  model::RandomModelOptions options;
  options.family = "qwen3";
  options.layers = 6;
  options.hidden = 512;
  options.intermediate = 1536;
  options.heads = 8;
  options.kv_heads = 4;
  options.head_dim = 64;
  options.vocabulary = 512;
  options.context = 8192;
  options.tokenizer = true;
  options.seed = seed;
  const auto files = model::make_random_model(options);
  EXPECT_TRUE(files.ok()) << files.error().message;
  const std::string dir = scratch.path() + "/" + name;
  const Result<void> written = model::write_model(dir, *files);
  EXPECT_TRUE(written.ok()) << written.error().message;
  return dir;
}

TEST(Mesh, AStageKilledInMidSentenceGivesATypedErrorWithinThreeSeconds) {
  const ScratchDir scratch;
  const std::string model = write_slow_model(scratch, "slow", 1);
  const auto mesh = start_mesh(scratch, 3,
                               {{"-m", model, "--layers", "0:2"},
                                {"-m", model, "--layers", "2:4"},
                                {"-m", model, "--layers", "4:6"}});
  ASSERT_TRUE(mesh[0]->ready()) << mesh[0]->process().output();
  Clock::time_point killed;
  int pieces = 0;
  const Reply reply =
      http(mesh[0]->url() + "/v1/chat/completions",
           chat_body("hello", R"("stream":true,"ignore_eos":true,"max_tokens":8000)"),
           [&](std::string_view) {
             if (++pieces == 8) {
               mesh[1]->process().signal(SIGKILL);
               killed = Clock::now();
             }
             return true;
           });
  const auto waited = Clock::now() - killed;
  ASSERT_GE(pieces, 8);
  const Streamed streamed = parse_stream(reply.body);
  EXPECT_NE(streamed.error.find("layers 2:4"), std::string::npos)
      << reply.body.substr(reply.body.size() > 800 ? reply.body.size() - 800 : 0);
  EXPECT_FALSE(streamed.error_type.empty());
  EXPECT_TRUE(streamed.done);
  EXPECT_LT(waited, seconds(3));

  const Reply not_ready = http(mesh[0]->url() + "/ready");
  EXPECT_EQ(not_ready.status, 503);
  EXPECT_EQ(Json::parse(not_ready.body)["missing_layers"], Json::array({"2:4"})) << not_ready.body;
  const Clock::time_point asked = Clock::now();
  const Reply refused = mesh[2]->ask("hello");
  EXPECT_EQ(refused.status, 503) << refused.body;
  EXPECT_NE(refused.body.find("2:4"), std::string::npos) << refused.body;
  EXPECT_LT(Clock::now() - asked, seconds(3));
}

TEST(Mesh, ServesAgainWhenTheLostStageIsBack) {
  const ScratchDir scratch;
  auto mesh = start_mesh(scratch, 2, {{"--layers", "0:4"}, {"--layers", "4:8"}});
  ASSERT_TRUE(mesh[0]->ready()) << mesh[0]->process().output();
  const std::string answer = content(mesh[0]->ask("What is 17 + 25?"));
  mesh[1]->process().signal(SIGKILL);
  ASSERT_EQ(mesh[1]->process().wait(seconds(5)), 128 + SIGKILL);
  ASSERT_TRUE(
      eventually(seconds(3), [&] { return http(mesh[0]->url() + "/ready").status == 503; }));
  const Node back(scratch, "node1b", "join",
                  {"--peer", mesh[0]->peer(), "--cluster-key-file",
                   mesh[0]->data_dir() + "/cluster.key", "--layers", "4:8"});
  ASSERT_TRUE(mesh[0]->ready()) << mesh[0]->process().output();
  EXPECT_EQ(content(mesh[0]->ask("What is 17 + 25?")), answer);
}

TEST(Mesh, RefusesOtherWeightsInOneSentenceThatNamesBothSides) {
  const ScratchDir scratch;
  const std::string model = write_slow_model(scratch, "other", 2);
  const auto mesh = start_mesh(scratch, 1);
  Node other(scratch, "stranger", "join",
             {"--peer", mesh[0]->peer(), "--cluster-key-file", mesh[0]->data_dir() + "/cluster.key",
              "-m", model});
  EXPECT_EQ(other.process().wait(seconds(15)), 1);
  const std::string said = other.process().output();
  EXPECT_NE(said.find("pocket (fingerprint"), std::string::npos) << said;
  EXPECT_NE(said.find("other (fingerprint"), std::string::npos) << said;
}

// The second node has no -m, so it takes model and cache from the mesh; the third brings its own.
TEST(Mesh, KeepsTheKvCacheAsItsFirstNodeSays) {
  const ScratchDir scratch;
  const auto mesh =
      start_mesh(scratch, 2, {{"--kv-dtype", "q8", "--layers", "0:4"}, {"--layers", "4:8"}});
  ASSERT_TRUE(mesh[1]->ready()) << mesh[1]->process().output();
  const std::string answer = content(mesh[0]->ask("What is 17 + 25?"));
  EXPECT_FALSE(answer.empty());
  EXPECT_EQ(content(mesh[1]->ask("What is 17 + 25?")), answer);
  for (const auto& node : mesh) {
    const std::string status = http(node->url() + "/mesh/status").body;
    EXPECT_NE(status.find("\"kv_dtype\":\"q8\""), std::string::npos) << status;
  }
  Node other(scratch, "stranger", "join",
             {"--peer", mesh[0]->peer(), "--cluster-key-file", mesh[0]->data_dir() + "/cluster.key",
              "-m", "pocket"});
  EXPECT_EQ(other.process().wait(seconds(15)), 1);
  const std::string said = other.process().output();
  EXPECT_NE(said.find("start both with the same --kv-dtype"), std::string::npos) << said;
}

TEST(Mesh, RefusesAnotherNumericClassAndAnotherCluster) {
  const ScratchDir scratch;
  const auto mesh = start_mesh(scratch, 1);
  Node other(scratch, "reference", "join",
             {"--peer", mesh[0]->peer(), "--cluster-key-file", mesh[0]->data_dir() + "/cluster.key",
              "--device", "ref"});
  EXPECT_EQ(other.process().wait(seconds(15)), 1);
  EXPECT_NE(other.process().output().find("cpu/1"), std::string::npos) << other.process().output();
  EXPECT_NE(other.process().output().find("ref/1"), std::string::npos) << other.process().output();
  const auto elsewhere = std::make_unique<Node>(
      scratch, "elsewhere", "run", std::vector<std::string>{"--peer", mesh[0]->peer()});
  EXPECT_EQ(elsewhere->process().wait(seconds(15)), 1);
  EXPECT_NE(elsewhere->process().output().find("cluster"), std::string::npos)
      << elsewhere->process().output();
}

TEST(Serve, AnswersAloneAndEndsOnSigterm) {
  const ScratchDir scratch;
  Node node(scratch, "alone", "serve", {});
  ASSERT_TRUE(node.listening()) << node.process().output();
  ASSERT_TRUE(node.ready()) << node.process().output();
  EXPECT_NE(content(node.ask("What is 17 + 25?")).find("42"), std::string::npos);
  const Reply bad = node.ask("hi", R"("temperature":7)");
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(Json::parse(bad.body)["error"]["param"], "temperature");
  std::string words;
  for (int i = 0; i < 3000; ++i) words += "hello ";
  const Reply longer = node.ask(words);
  EXPECT_EQ(longer.status, 400);
  EXPECT_EQ(Json::parse(longer.body)["error"]["code"], "context_length_exceeded") << longer.body;
  node.process().signal(SIGTERM);
  EXPECT_EQ(node.process().wait(seconds(10)), 0);
}

TEST(CommandLine, SaysWhatIsWrongAndExitsByTheTable) {
  const struct {
    std::vector<std::string> arguments;
    int exit;
    std::string says;
  } cases[] = {
      {{}, 2, "Subcommands:"},
      {{"rum"}, 2, "there is no verb 'rum'\n  did you mean 'run'?"},
      {{"run", "--prot", "1"}, 2, "run has no flag --prot\n  did you mean '--port'?"},
      {{"run", "--port", "abc"}, 2, "--port abc: not a whole number from 0 to 65535"},
      {{"run", "--max-queue", "0"}, 2, "--max-queue 0: not a whole number from 1 to 65536"},
      {{"run", "-m", "pokcet"}, 1, "did you mean 'pocket'?"},
      {{"run", "--config", "/nowhere.toml"}, 2, "there is no file /nowhere.toml"},
      {{"config", "shwo"}, 2, "config has no 'shwo'\n  did you mean 'show'?"},
      {{"config", "set", "prot", "1"}, 2, "unknown key 'prot'; did you mean 'port'?"},
      {{"config", "set", "port", "x", "--config", "/nowhere.toml"}, 2, "port x: not a whole"},
      {{"config", "path", "--config", "/here.toml"}, 0, "/here.toml"},
      {{"chat", "--temperature", "9", "--port", "1"}, 2, "--temperature 9: not a number from 0"},
      {{"status", "--watch", "--port", "1"}, 3, "no node answers"},
      {{"join"}, 2, "join needs the address of a node"},
      {{"join", "nowhere"}, 2, "the port is missing"},
      {{"join", "127.0.0.1:1", "--kv-dtype", "q8"}, 2, "--kv-dtype q8: without -m the model is"},
      {{"run", "-m", "/nowhere"}, 1, "no model \"/nowhere\""},
      {{"eval", "-m", "pocket", "--ids", "/nowhere.json", "--out", "/nowhere"}, 1, "/nowhere.json"},
      {{"status", "--port", "1"}, 3, "no node answers at http://127.0.0.1:1"},
      {{"status", "--port", "1", "--check-coverage"}, 3, "no node answers"},
      {{"chat", "--port", "1"}, 3, "no node answers"},
      {{"chat", "--port", "1", "--once", "hi"}, 3, "no node answers"},
      {{"status", "--help"}, 0, "--check-coverage"},
  };
  const ScratchDir scratch;
  int number = 0;
  for (const auto& c : cases) {
    std::vector<std::string> arguments = c.arguments;
    if (!arguments.empty() && arguments[0] == "run")
      arguments.insert(arguments.end(), {"--data-dir", scratch.path() + "/data"});
    MeshProcess process(scratch.path() + "/" + std::to_string(++number) + ".log", arguments);
    EXPECT_EQ(process.wait(seconds(10)), c.exit) << process.output();
    EXPECT_NE(process.output().find(c.says), std::string::npos) << c.says << "\n"
                                                                << process.output();
  }
}

TEST(Leaving, ANodeEndsItsAnswersTakesNoNewOnesAndExitsZero) {
  const ScratchDir scratch;
  Node node(scratch, "slow", "serve", {"-m", write_slow_model(scratch, "slow", 1)});
  ASSERT_TRUE(node.listening() && node.ready()) << node.process().output();
  int pieces = 0;
  Reply late;
  const Reply reply = http(
      node.url() + "/v1/chat/completions",
      chat_body("hello", R"("stream":true,"ignore_eos":true,"max_tokens":200)"),
      [&](std::string_view) {
        if (++pieces != 8) return true;
        node.process().signal(SIGTERM);
        // The signal is looked for every 50 ms.
        eventually(seconds(5), [&] {
          late = http(node.url() + "/v1/chat/completions", chat_body("hello", R"("max_tokens":1)"));
          return late.status != 200;
        });
        return true;
      });
  const Streamed streamed = parse_stream(reply.body);
  EXPECT_EQ(late.status, 503) << late.body;
  EXPECT_NE(late.body.find("shutting down"), std::string::npos) << late.body;
  EXPECT_EQ(streamed.finish, "length") << streamed.error;
  EXPECT_TRUE(streamed.done);
  EXPECT_EQ(node.process().wait(seconds(10)), 0) << node.process().output();
}

TEST(Leaving, AStageHandsItsLayersOverWhileItsAnswersEnd) {
  const ScratchDir scratch;
  const std::string model = write_slow_model(scratch, "slow", 1);
  const auto mesh = start_mesh(scratch, 2, {{"-m", model}, {"-m", model}});
  ASSERT_TRUE(mesh[0]->ready()) << mesh[0]->process().output();
  int pieces = 0;
  const Reply reply =
      http(mesh[0]->url() + "/v1/chat/completions",
           chat_body("hello", R"("stream":true,"ignore_eos":true,"max_tokens":200)"),
           [&](std::string_view) {
             if (++pieces == 8) mesh[1]->process().signal(SIGTERM);
             return true;
           });
  const Streamed streamed = parse_stream(reply.body);
  EXPECT_EQ(streamed.finish, "length") << streamed.error;
  EXPECT_EQ(mesh[1]->process().wait(seconds(10)), 0) << mesh[1]->process().output();
  ASSERT_TRUE(mesh[0]->ready()) << mesh[0]->process().output();
  EXPECT_EQ(mesh[0]->ask("hello", R"("max_tokens":2)").status, 200);
}

TEST(Leaving, ASecondSignalDoesNotWait) {
  const ScratchDir scratch;
  Node node(scratch, "slow", "serve", {"-m", write_slow_model(scratch, "slow", 1)});
  ASSERT_TRUE(node.listening() && node.ready()) << node.process().output();
  int pieces = 0;
  http(node.url() + "/v1/chat/completions",
       chat_body("hello", R"("stream":true,"ignore_eos":true,"max_tokens":8000)"),
       [&](std::string_view) {
         if (++pieces != 4) return true;
         node.process().signal(SIGINT);
         eventually(seconds(5), [&] {
           return node.process().output().find("Ctrl-C again") != std::string::npos;
         });
         node.process().signal(SIGINT);
         return true;
       });
  EXPECT_EQ(node.process().wait(seconds(10)), 130) << node.process().output();
}

TEST(ApiKey, IsMadeForAHostThatOthersReachAndFoundByTheOtherVerbs) {
  const ScratchDir scratch;
  Node node(scratch, "open", "serve", {"--host", "0.0.0.0"});
  ASSERT_TRUE(node.listening()) << node.process().output();
  EXPECT_NE(node.process().output().find("sk-mesh-"), std::string::npos);
  EXPECT_EQ(http(node.url() + "/mesh/status").status, 401);
  MeshProcess status(scratch.path() + "/status.log", {"status", "--data-dir", node.data_dir()});
  EXPECT_EQ(status.wait(seconds(10)), 0) << status.output();
}

TEST(Ports, ABusyPortNamesItsOwner) {
  const ScratchDir scratch;
  Node first(scratch, "first", "serve", {});
  ASSERT_TRUE(first.listening());
  const std::string port = first.url().substr(first.url().rfind(':') + 1);
  MeshProcess second(scratch.path() + "/second.log",
                     {"serve", "--data-dir", scratch.path() + "/second", "--port", port});
  EXPECT_EQ(second.wait(seconds(15)), 1);
  EXPECT_NE(second.output().find("is used by PID"), std::string::npos) << second.output();
  EXPECT_NE(second.output().find("toolkit-mesh"), std::string::npos) << second.output();
}

}  // namespace
}  // namespace mesh::loopback
