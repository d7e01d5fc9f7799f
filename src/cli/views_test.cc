// What people see and type: the watch view, chat commands, progress, keys, model names.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/api_key.h"
#include "cli/chat_commands.h"
#include "cli/console.h"
#include "cli/model_names.h"
#include "cli/watch_view.h"

namespace mesh::cli {
namespace {

// --- status --watch

constexpr const char* kStatus = R"({"mesh":{"version":"0.1.0","cluster":"k3v9","epoch":4,
"ready":true,"layers":40,"requests_running":6,"requests_waiting":1,"waiting_for":""},
"model":{"name":"Qwen3-14B","layers":40},"nodes":[
{"name":"studio","self":true,"state":"ready","device":"AMD EPYC, avx512","layers":[0,18],
 "bytes_loaded":12600000000,"pages_total":1000,"pages_used":710,"tokens_per_s":60.2,"rtt_ms":0},
{"name":"tower-with-a-long-name","state":"lost","problem":"no answer for 2 s",
 "device":"Ryzen 7, avx2","layers":[18,39],"bytes_loaded":5300000,"pages_total":300,
 "pages_used":1,"tokens_per_s":33.9,"rtt_ms":0.44},
{"name":"spare","state":"waiting","device":"ref","layers":[0,0],"bytes_loaded":0,
 "pages_total":0,"pages_used":0,"tokens_per_s":0,"rtt_ms":12.3}]})";

std::string drawn(std::size_t width, const std::string& lost = "", bool colour = false) {
  WatchFrame frame;
  frame.mesh = *parse_watch_mesh(kStatus);
  frame.rates = {0, 20, 40, 94.1};
  frame.width = width;
  frame.lost = lost;
  frame.lost_s = 12;
  frame.colour = colour;
  std::string out;
  for (const std::string& line : render_watch(frame)) {
    if (!colour) {
      EXPECT_LE(shown_width(line), width) << line;
    }
    out += line + "\n";
  }
  return out;
}

TEST(WatchView, AtEightyColumns) {
  EXPECT_EQ(drawn(80),
            " toolkit-mesh · k3v9 · 3 nodes · Qwen3-14B · plan 4 · ready               q quit\n"
            " node           device          layers  weights  KV pages      rtt     state\n"
            " studio *       AMD EPYC, avx5… 0–17    12.6 GB  ██████░░ 71%  –       ready\n"
            " tower-with-a-… Ryzen 7, avx2   18–38   5.3 MB   █░░░░░░░ 0%   0.4 ms  lost\n"
            "   ✗ no answer for 2 s\n"
            " spare          ref             –       –        –             12.3 ms waiting\n"
            " requests 6 running, 1 waiting   94 tok/s ▁▂▄█\n");
}

TEST(WatchView, AtHundredAndTwentyColumns) {
  EXPECT_EQ(drawn(120),
            " toolkit-mesh · k3v9 · 3 nodes · Qwen3-14B · plan 4 · ready                           "
            "                            q quit\n"
            " node                 device                                   layers  weights  KV "
            "pages      rtt     state\n"
            " studio *             AMD EPYC, avx512                         0–17    12.6 GB  "
            "██████░░ 71%  –       ready\n"
            " tower-with-a-long-n… Ryzen 7, avx2                            18–38   5.3 MB   "
            "█░░░░░░░ 0%   0.4 ms  lost\n"
            "   ✗ no answer for 2 s\n"
            " spare                ref                                      –       –        –     "
            "        12.3 ms waiting\n"
            " requests 6 running, 1 waiting   94 tok/s ▁▂▄█\n");
}

TEST(WatchView, NarrowTerminalsLoseColumnsNotTheState) {
  EXPECT_EQ(drawn(52),
            " toolkit-mesh · k3v9 · 3 nodes · Qwen3-14B …  q quit\n"
            " node           layers  KV pages      state\n"
            " studio *       0–17    ██████░░ 71%  ready\n"
            " tower-with-a-… 18–38   █░░░░░░░ 0%   lost\n"
            "   ✗ no answer for 2 s\n"
            " spare          –       –             waiting\n"
            " requests 6 running, 1 waiting   94 tok/s ▁▂▄█\n");
  for (std::size_t width = 21; width < 200; ++width) drawn(width, "no node answers");
}

TEST(WatchView, ALostConnectionIsSaidUnderTheLastState) {
  const std::string text = drawn(80, "no node answers at http://127.0.0.1:8642");
  EXPECT_NE(text.find("\n ✗ connection lost 12 s ago, trying again: no node answers at http"),
            std::string::npos)
      << text;
  EXPECT_EQ(text.rfind(" toolkit-mesh · k3v9", 0), 0u);
}

TEST(WatchView, ColoursOnlyWhereAsked) {
  EXPECT_EQ(drawn(80).find('\x1b'), std::string::npos);
  EXPECT_NE(drawn(80, "", true).find("\x1b[31mlost\x1b[0m"), std::string::npos);
}

TEST(WatchView, NamesOfPeersCannotSteerTheTerminal) {
  const auto mesh =
      parse_watch_mesh(R"({"mesh":{},"model":{},"nodes":[{"name":"a\u001b[2J","layers":[0,1]}]})");
  ASSERT_TRUE(mesh.ok());
  EXPECT_EQ(mesh->nodes[0].name, "a?[2J");
  EXPECT_EQ(parse_watch_mesh("{}").error().code, Code::kCorrupt);
  EXPECT_EQ(parse_watch_mesh("no").error().code, Code::kCorrupt);
  EXPECT_EQ(parse_watch_mesh(R"({"mesh":{},"model":{},"nodes":[{"layers":["x"]}]})").error().code,
            Code::kCorrupt);
}

TEST(Sparkline, ScalesToTheLargestAndKeepsTheNewest) {
  EXPECT_EQ(sparkline({0, 50, 100}, 10), "▁▅█");
  EXPECT_EQ(sparkline({900, 0, 1}, 2), "▁█");
  EXPECT_EQ(sparkline({0, 0}, 5), "▁▁");
  EXPECT_EQ(sparkline({}, 5), "");
}

TEST(Fitted, CountsCharactersNotBytes) {
  EXPECT_EQ(fitted("äö", 4), "äö  ");
  EXPECT_EQ(fitted("äöüß", 3), "äö…");
  EXPECT_EQ(fitted("abc", 3), "abc");
  EXPECT_EQ(fitted("abc", 0), "");
  EXPECT_EQ(bar(0.5, 4), "██░░");
  EXPECT_EQ(bar(0.01, 4), "█░░░");
  EXPECT_EQ(bar(7, 2), "██");
}

// --- chat

TEST(ChatInputTest, CommandsAndMessages) {
  const struct {
    std::string typed;
    ChatCommand command;
    std::string text;
  } cases[] = {
      {"", ChatCommand::kEmpty, ""},
      {"  \n ", ChatCommand::kEmpty, ""},
      {"hello", ChatCommand::kMessage, "hello"},
      {"a\nb", ChatCommand::kMessage, "a\nb"},
      {"/help", ChatCommand::kHelp, ""},
      {"/save  a b.md ", ChatCommand::kSave, "a b.md"},
      {"/system You are brief.", ChatCommand::kSystem, "You are brief."},
      {"/system", ChatCommand::kSystem, ""},
      {"/model Qwen/Qwen3-8B", ChatCommand::kModel, "Qwen/Qwen3-8B"},
      {"/stats", ChatCommand::kStats, ""},
      {"/clear", ChatCommand::kClear, ""},
      {"/new", ChatCommand::kClear, ""},
      {"/exit", ChatCommand::kExit, ""},
      {" /quit ", ChatCommand::kExit, ""},
      {"//etc is a folder", ChatCommand::kMessage, "/etc is a folder"},
      {"/hlep me", ChatCommand::kUnknown, "/hlep"},
      {"/", ChatCommand::kUnknown, "/"},
  };
  for (const auto& c : cases) {
    const ChatInput input = parse_chat_input(c.typed);
    EXPECT_EQ(input.command, c.command) << c.typed;
    EXPECT_EQ(input.text, c.text) << c.typed;
  }
  EXPECT_EQ(unknown_command("/hlep"), "no command '/hlep'; did you mean '/help'?");
  EXPECT_EQ(unknown_command("/xyzzy"),
            "no command '/xyzzy'; /help lists them, // begins a message with /");
  for (const char* name : {"/help", "/model", "/stats", "/save", "/clear", "/system", "/exit"})
    EXPECT_NE(chat_help().find(name), std::string::npos) << name;
}

TEST(LineJoinerTest, ABackslashGoesOn) {
  LineJoiner joiner;
  EXPECT_EQ(joiner.add("one"), "one");
  EXPECT_EQ(joiner.add("one\\"), std::nullopt);
  EXPECT_TRUE(joiner.pending());
  EXPECT_EQ(joiner.add("two\\"), std::nullopt);
  EXPECT_EQ(joiner.add("three"), "one\ntwo\nthree");
  EXPECT_FALSE(joiner.pending());
  EXPECT_EQ(joiner.add("x\\"), std::nullopt);
  EXPECT_EQ(joiner.take(), "x\n");
  EXPECT_EQ(joiner.add("fresh"), "fresh");
}

TEST(Transcript, MarkdownOrJsonByName) {
  const std::vector<ChatMessage> messages = {{"user", "hi \"you\""}, {"assistant", "ho"}};
  EXPECT_EQ(transcript(messages, "a.md"), "## user\n\nhi \"you\"\n\n## assistant\n\nho\n");
  EXPECT_EQ(transcript({{"user", "\"ä\""}}, "a.json"),
            "[\n  {\n    \"role\": \"user\",\n    \"content\": \"\\\"ä\\\"\"\n  }\n]\n");
  EXPECT_EQ(stats_text(38.2, 410.4), "[first token 38 ms, 410 tok/s]");
  EXPECT_EQ(stats_text(38.2, 0), "[first token 38 ms]");
}

// --- lines of a node

TEST(RequestLine, IsOneReadableLine) {
  EXPECT_EQ(request_line("request.done", {{"id", "r7"},
                                          {"prompt", "812"},
                                          {"cached", "512"},
                                          {"ttft_ms", "38.25"},
                                          {"tokens", "94"},
                                          {"tokens_per_s", "410.1"},
                                          {"finish", "stop"}}),
            "· request r7  prompt 812 (512 cached)  first token 38 ms  94 tokens, 410 tok/s  stop");
  EXPECT_EQ(request_line("request.done", {{"id", "r7"}, {"cached", "0"}, {"prompt", "3"}}),
            "· request r7  prompt 3");
  EXPECT_EQ(
      request_line("request.done", {{"id", "r8"}, {"finish", "error"}, {"why", "unavailable"}}),
      "· request r8  error (unavailable)");
  EXPECT_EQ(request_line("plan.new", {{"epoch", "1"}}), "");
}

TEST(LoadProgressTest, NothingForAShortLoadThenAtAPace) {
  const Instant start(seconds(100));
  LoadProgress terminal(true);
  EXPECT_FALSE(terminal.update(start, 10, 100));
  EXPECT_FALSE(terminal.update(start + milliseconds(900), 20, 100));
  EXPECT_EQ(terminal.update(start + seconds(2), 50'000'000, 100'000'000),
            "  reading weights  ████████░░░░░░░░  50.0 MB of 100.0 MB  25 MB/s  eta 0:02");
  EXPECT_FALSE(terminal.update(start + milliseconds(2050), 60, 100)) << "a smaller count: anew";
  LoadProgress pipe(false);
  EXPECT_FALSE(pipe.update(start, 10, 100));
  EXPECT_TRUE(pipe.update(start + seconds(1), 20, 100));
  EXPECT_FALSE(pipe.update(start + seconds(5), 30, 100));
  EXPECT_TRUE(pipe.update(start + seconds(6), 40, 100));
  EXPECT_FALSE(pipe.update(start + seconds(20), 100, 100)) << "done";
}

// --- API key

class CountingRandom final : public env::Random {
 public:
  void fill(std::span<std::byte> out) override {
    for (std::byte& b : out) b = static_cast<std::byte>(++next);
  }
  unsigned next = 0;
};

class ApiKeyTest : public ::testing::Test {
 protected:
  ApiKeyTest() {
    char name[] = "/tmp/mesh-key-XXXXXX";
    dir = ::mkdtemp(name);
  }
  ~ApiKeyTest() override { std::filesystem::remove_all(dir); }
  std::string file(const std::string& name, const std::string& text) {
    std::ofstream(dir + "/" + name) << text;
    return dir + "/" + name;
  }
  std::string dir;
  CountingRandom random;
};

TEST_F(ApiKeyTest, IsMadeOnceForAHostThatOthersReach) {
  NodeOptions options;
  EXPECT_EQ(node_api_key(options, dir, "", random)->text, "") << "loopback";
  options.host = "0.0.0.0";
  const Result<ApiKey> made = node_api_key(options, dir, "", random);
  ASSERT_TRUE(made.ok()) << made.error().message;
  EXPECT_TRUE(made->made);
  EXPECT_EQ(made->text, "sk-mesh-0102030405060708090a0b0c0d0e0f1011121314");
  EXPECT_EQ(made->source, dir + "/api.key");
  const auto rights = std::filesystem::status(dir + "/api.key").permissions();
  EXPECT_EQ(rights, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  const Result<ApiKey> again = node_api_key(options, dir, "", random);
  EXPECT_FALSE(again->made);
  EXPECT_EQ(again->text, made->text);
  std::filesystem::permissions(dir + "/api.key", std::filesystem::perms(0644));
  EXPECT_FALSE(node_api_key(options, dir, "", random).ok()) << "others could read it";
}

TEST_F(ApiKeyTest, FlagThenEnvironmentThenConfigFile) {
  NodeOptions options;
  options.api_key_file = file("k", "from-file\n");
  options.api_key_file_origin = Origin::kFlag;
  EXPECT_EQ(node_api_key(options, dir, "from-environment", random)->text, "from-file");
  options.api_key_file_origin = Origin::kFile;
  EXPECT_EQ(node_api_key(options, dir, "from-environment", random)->text, "from-environment");
  EXPECT_EQ(node_api_key(options, dir, "", random)->text, "from-file");
  options.api_key_file = dir + "/none";
  EXPECT_EQ(node_api_key(options, dir, "", random).error().message,
            "--api-key-file: no API key in " + dir + "/none");
}

TEST_F(ApiKeyTest, ClientsFindTheKeptKeyForThisMachineOnly) {
  NodeOptions node;
  node.host = "0.0.0.0";
  const std::string kept = node_api_key(node, dir, "", random)->text;
  TargetOptions target;
  target.data_dir = dir;
  EXPECT_EQ(*client_api_key(target, "http://127.0.0.1:8642", "", ""), kept);
  EXPECT_EQ(*client_api_key(target, "http://0.0.0.0:8642", "", ""), kept);
  EXPECT_EQ(*client_api_key(target, "http://[::1]:8642", "", ""), kept);
  EXPECT_EQ(*client_api_key(target, "https://example.com", "", ""), "");
  EXPECT_EQ(*client_api_key(target, "https://127.example.com", "", ""), "");
  EXPECT_EQ(*client_api_key(target, "http://127.0.0.1:8642", "variable", "openai"), "variable");
  target.openai = true;
  EXPECT_EQ(*client_api_key(target, "https://example.com", "variable", "openai"), "openai");
}

TEST(ClosestModel, IgnoresCaseAndOrganisation) {
  const std::vector<std::string> names = {"pocket", "Qwen/Qwen3-8B", "meta-llama/Llama-3.2-1B"};
  EXPECT_EQ(closest_model("pokcet", names), "pocket");
  EXPECT_EQ(closest_model("qwen3-8bb", names), "Qwen/Qwen3-8B");
  EXPECT_EQ(closest_model("qwen/qwen3-8b", names), "Qwen/Qwen3-8B");
  EXPECT_EQ(closest_model("/models/pocket", names), "");
  EXPECT_EQ(closest_model("something-else", names), "");
}

}  // namespace
}  // namespace mesh::cli
