#include "cli/settings.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "cli/config_file.h"
#include "cli/exit_codes.h"
#include "cli/options.h"

namespace mesh::cli {
namespace {

// What each setting says of a value that it cannot take. A setting without a line here fails.
const std::map<std::string, std::pair<std::string, std::string>> kBadValues = {
    {"model", {"", "must not be empty"}},
    {"host", {"", "must not be empty"}},
    {"port", {"65536", "not a whole number from 0 to 65535"}},
    {"data-dir", {"", "must not be empty"}},
    {"name", {"", "must not be empty"}},
    {"device", {"gpu", "choose cpu or ref"}},
    {"isa", {"sse", "choose avx512, avx2, neon_dotprod, neon or scalar"}},
    {"quantize", {"q5", "choose q8 or q4"}},
    {"kv-dtype", {"q4", "choose f32, bf16 or q8"}},
    {"threads", {"0", "not a whole number from 1 to 1024"}},
    {"memory", {"8 apples", "write a size such as 8G or 500M"}},
    {"kv-memory", {"-1", "write a size such as 8G or 500M"}},
    {"max-queue", {"1e3", "not a whole number from 1 to 65536"}},
    {"api-key-file", {"", "must not be empty"}},
    {"cors-origins", {"", "must not be empty"}},
    {"no-ui", {"maybe", "write true or false"}},
    {"quiet", {"2", "write true or false"}},
    {"log-level", {"loud", "choose debug, info, warn or error"}},
    {"log-format", {"xml", "choose text or json"}},
    {"log-file", {"", "must not be empty"}},
    {"listen",
     {"here", "'here' is not an address: the port is missing; write HOST:PORT or [IPV6]:PORT"}},
    {"advertise",
     {":1", "':1' is not an address: the host is missing; write HOST:PORT or [IPV6]:PORT"}},
    {"peer", {"x", "'x' is not an address: the port is missing; write HOST:PORT or [IPV6]:PORT"}},
    {"layers",
     {"4:4",
      "'4:4' is not a layer range; write BEGIN:END with BEGIN < END, for example 0:14 for the "
      "first fourteen layers"}},
    {"min-nodes", {"513", "not a whole number from 1 to 512"}},
    {"no-layers", {"perhaps", "write true or false"}},
    {"cluster-key-file", {"", "must not be empty"}},
    {"url", {"", "must not be empty"}},
    {"once", {"", "must not be empty"}},
    {"system", {"", "must not be empty"}},
    {"temperature", {"2.5", "not a number from 0 to 2"}},
    {"seed", {"-1", "not a whole number from 0 to 9007199254740992"}},
    {"max-tokens", {"0", "not a whole number from 1 to 4194304"}},
    {"stats", {"often", "write true or false"}},
    {"json", {"no thanks", "write true or false"}},
    {"watch", {"long", "write true or false"}},
    {"check-coverage", {"half", "write true or false"}},
    {"config", {"", "must not be empty"}},
};

TEST(SettingTable, EveryFlagSaysWhatIsWrongWithABadValue) {
  for (const Setting& setting : setting_table()) {
    const std::string name(setting.name);
    const auto bad = kBadValues.find(name);
    ASSERT_NE(bad, kBadValues.end()) << "no bad value for --" << name;
    Sources sources;
    sources.flags[name] = {bad->second.first};
    for (unsigned verb = 1; verb <= kAllVerbs; verb <<= 1) {
      if ((setting.verbs & verb) == 0) continue;
      const Result<Settings> settings = resolve(verb, sources);
      ASSERT_FALSE(settings.ok()) << name;
      EXPECT_EQ(settings.error().message,
                fmt::format("--{} {}: {}", name, bad->second.first, bad->second.second));
      EXPECT_EQ(settings.error().code, Code::kInvalidArgument);
    }
  }
}

TEST(SettingTable, IsSound) {
  std::set<std::pair<unsigned, std::string_view>> seen;
  for (const Setting& setting : setting_table()) {
    EXPECT_FALSE(setting.help.empty()) << setting.name;
    EXPECT_EQ(setting.kind == Kind::kSwitch, setting.placeholder.empty()) << setting.name;
    EXPECT_EQ(setting.kind == Kind::kChoice, !setting.choices.empty()) << setting.name;
    if (!setting.fallback.empty()) {
      EXPECT_TRUE(check_value(setting, std::string(setting.fallback)).ok()) << setting.name;
    }
    for (unsigned verb = 1; verb <= kAllVerbs; verb <<= 1)
      if ((setting.verbs & verb) != 0) {
        EXPECT_TRUE(seen.insert({verb, setting.name}).second) << setting.name << " twice";
      }
  }
}

std::string docs() {
  std::ifstream file(std::string(MESH_TEST_DATA) + "/../../docs/cli.md");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(SettingTable, IsWhatTheManualLists) {
  const std::string manual = docs();
  ASSERT_FALSE(manual.empty());
  for (const Setting& setting : setting_table()) {
    const std::string flag = "--" + std::string(setting.name);
    std::size_t at = manual.find(flag);
    while (at != std::string::npos && manual.find_first_of("` =", at) != at + flag.size())
      at = manual.find(flag, at + 1);
    EXPECT_NE(at, std::string::npos) << flag << " is not in docs/cli.md";
  }
  for (const ExitCode& code : exit_codes())
    EXPECT_NE(manual.find(fmt::format("| {} | {} |", code.code, code.meaning)), std::string::npos)
        << code.code << " " << code.meaning;
}

// The five places of one value, weakest last.
TEST(Resolve, TakesTheStrongestSource) {
  std::map<std::string, std::string> environment = {{"TOOLKIT_MESH_TEMPERATURE", "0.2"}};
  Sources sources;
  sources.flags["temperature"] = {"0.1"};
  sources.environment = [&](const std::string& name) { return environment[name]; };
  sources.file = {{"temperature", {"0.3"}, false, "c.toml:4:15"}, {"port", {"9"}, false, "c:1:1"}};
  sources.model["temperature"] = "0.4";
  sources.model["no-such"] = "1";
  const auto temperature = [&] { return resolve(kChatVerb, sources)->value("temperature"); };
  EXPECT_EQ(temperature().origin, Origin::kFlag);
  EXPECT_EQ(temperature().texts.front(), "0.1");
  EXPECT_EQ(temperature().source, "--temperature");
  sources.flags.clear();
  EXPECT_EQ(temperature().origin, Origin::kEnvironment);
  EXPECT_EQ(temperature().texts.front(), "0.2");
  EXPECT_EQ(temperature().source, "TOOLKIT_MESH_TEMPERATURE");
  environment.clear();
  EXPECT_EQ(temperature().origin, Origin::kFile);
  EXPECT_EQ(temperature().texts.front(), "0.3");
  EXPECT_EQ(temperature().source, "c.toml:4:15");
  sources.file.clear();
  EXPECT_EQ(temperature().origin, Origin::kModel);
  EXPECT_EQ(temperature().texts.front(), "0.4");
  sources.model.clear();
  EXPECT_EQ(temperature().origin, Origin::kUnset);
  const Result<Settings> run = resolve(kRunVerb, sources);
  EXPECT_EQ(run->value("log-level").origin, Origin::kBuiltIn);
  EXPECT_EQ(run->text("log-level"), "warn");
  EXPECT_EQ(run->text("model"), "pocket");
  EXPECT_FALSE(resolve(kJoinVerb, sources)->has("model")) << "join takes the mesh's model";
}

TEST(Resolve, NamesThePlaceOfABadValue) {
  Sources sources;
  sources.environment = [](const std::string& name) {
    return name == "TOOLKIT_MESH_PORT" ? "abc" : "";
  };
  EXPECT_EQ(resolve(kRunVerb, sources).error().message,
            "TOOLKIT_MESH_PORT=abc: not a whole number from 0 to 65535");
  sources.environment = nullptr;
  sources.file = {{"port", {"abc"}, false, "c.toml:2:8"}};
  EXPECT_EQ(resolve(kRunVerb, sources).error().message,
            "c.toml:2:8: port = abc: not a whole number from 0 to 65535");
  sources.file = {{"port", {"1", "2"}, true, "c.toml:2:8"}};
  EXPECT_EQ(resolve(kRunVerb, sources).error().message,
            "c.toml:2:8: port = 1: one value, not a list");
  sources.file = {{"prot", {"1"}, false, "c.toml:1:1"}};
  EXPECT_EQ(resolve(kRunVerb, sources).error().message,
            "c.toml:1:1: unknown key 'prot'; did you mean 'port'?");
  sources.file = {{"watch", {"true"}, false, "c.toml:1:1"}};
  EXPECT_FALSE(resolve(kStatusVerb, sources).ok()) << "what one call does stands in no file";
}

TEST(Resolve, ReadsListsAndSwitches) {
  Sources sources;
  sources.environment = [](const std::string& name) -> std::string {
    if (name == "TOOLKIT_MESH_PEER") return "a:1, b:2";
    return name == "TOOLKIT_MESH_NO_UI" ? "YES" : "";
  };
  const Result<Settings> settings = resolve(kRunVerb, sources);
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  EXPECT_EQ(settings->texts("peer"), (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_TRUE(settings->on("no-ui"));
  EXPECT_FALSE(settings->on("quiet"));
}

TEST(Resolve, SizesAreBytes) {
  EXPECT_EQ(*parse_size("8G"), 8'000'000'000u);
  EXPECT_EQ(*parse_size("1.5MB"), 1'500'000u);
  EXPECT_EQ(*parse_size("123"), 123u);
  for (const char* bad : {"", "G", "8Q", "0", "1e3", "8 G", "99999999999T", "1.2.3G"})
    EXPECT_FALSE(parse_size(bad).ok()) << bad;
}

TEST(UnknownVariables, AreNoticedWhenTheyLookLikeOne) {
  EXPECT_TRUE(unknown_variables({"TOOLKIT_MESH_PORT", "TOOLKIT_MESH_API_KEY", "HOME"}).empty());
  EXPECT_EQ(unknown_variables({"TOOLKIT_MESH_MAX_QEUE"}),
            (std::vector<std::string>{"no setting is called TOOLKIT_MESH_MAX_QEUE; did you mean "
                                      "TOOLKIT_MESH_MAX_QUEUE?"}));
}

TEST(NodeOptionsTest, ContradictionsAreNamed) {
  Sources sources;
  sources.flags["layers"] = {"0:3"};
  sources.flags["no-layers"] = {"true"};
  EXPECT_EQ(node_options(NodeVerb::kRun, *resolve(kRunVerb, sources)).error().message,
            "--layers and --no-layers contradict each other");
  sources.flags = {{"memory", {"1G"}}, {"kv-memory", {"2G"}}};
  EXPECT_EQ(node_options(NodeVerb::kServe, *resolve(kServeVerb, sources)).error().message,
            "--kv-memory 2G is part of --memory 1G, which leaves nothing for the weights");
  sources.flags = {{"max-queue", {"7"}}, {"kv-memory", {"2G"}}, {"cors-origins", {"*"}}};
  const Result<NodeOptions> options = node_options(NodeVerb::kServe, *resolve(kServeVerb, sources));
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->max_queue, 7u);
  EXPECT_EQ(options->kv_memory, 2'000'000'000u);
  EXPECT_EQ(options->cors_origins, (std::vector<std::string>{"*"}));
}

TEST(ChatOptionsTest, TheStrongestAddressWins) {
  const auto target = [](Sources sources, const std::string& base) {
    return chat_options(*resolve(kChatVerb, sources), base).target;
  };
  Sources sources;
  EXPECT_EQ(target(sources, "").url, "");
  TargetOptions openai = target(sources, "https://api.example.com/v1/");
  EXPECT_TRUE(openai.openai);
  EXPECT_EQ(openai.url, "https://api.example.com");
  EXPECT_EQ(openai.api_prefix, "/v1");
  openai = target(sources, "http://x/other");
  EXPECT_EQ(openai.url + openai.api_prefix, "http://x/other");
  sources.file = {{"url", {"studio:8642"}, false, "c:1:1"}};
  EXPECT_EQ(target(sources, "").url, "http://studio:8642");
  EXPECT_TRUE(target(sources, "http://x/v1").openai) << "the environment beats the file";
  sources.flags["port"] = {"9000"};
  EXPECT_EQ(target(sources, "http://x/v1").port, 9000);
  EXPECT_EQ(target(sources, "http://x/v1").url, "");
  sources.flags = {{"data-dir", {"/d"}}};
  EXPECT_EQ(target(sources, "http://x/v1").url, "");
  EXPECT_EQ(target(sources, "http://x/v1").data_dir, "/d");
}

// --- the config file

TEST(ConfigText, IsReadWithPlaces) {
  const auto entries = parse_config_text(
      "# mine\nport = 9000\npeer = [\"a:1\", \"b:2\"]\n"
      "no-ui = true\ntemperature = 0.5\n",
      "c.toml");
  ASSERT_TRUE(entries.ok()) << entries.error().message;
  ASSERT_EQ(entries->size(), 4u);
  for (const ConfigEntry& entry : *entries) {
    if (entry.key == "port") {
      EXPECT_EQ(entry.place, "c.toml:2:8");
    }
    if (entry.key == "peer") {
      EXPECT_TRUE(entry.list);
      EXPECT_EQ(entry.texts.size(), 2u);
    }
    if (entry.key == "temperature") {
      EXPECT_EQ(entry.texts.front(), "0.5");
    }
  }
}

TEST(ConfigText, ErrorsSayWhere) {
  EXPECT_EQ(parse_config_text("port = \n", "c.toml").error().message.rfind("c.toml:1:8: ", 0), 0u)
      << parse_config_text("port = \n", "c.toml").error().message;
  EXPECT_EQ(parse_config_text("port = 1\nport = 2\n", "c").error().message.rfind("c:2:", 0), 0u);
  EXPECT_EQ(parse_config_text("\n[server]\nport = 1\n", "c").error().message,
            "c:2:2: [server] is a table; write KEY = VALUE lines only");
  EXPECT_EQ(parse_config_text("port = 1979-05-27\n", "c").error().message,
            "c:1:8: a text, a number, true or false, or a list of texts is expected");
  Sources sources;
  sources.file = *parse_config_text("\nprot = 1\n", "c.toml");
  EXPECT_EQ(resolve(kRunVerb, sources).error().message,
            "c.toml:2:1: unknown key 'prot'; did you mean 'port'?");
}

TEST(ConfigText, SetKeepsEverythingElse) {
  const std::string before =
      "# my mesh\nport = 9000  # behind the router\n\npeer = [\n  \"a:1\",\n  \"b:2\"\n] # two\n"
      "name = \"a # b\"\n";
  const Setting& port = *find_setting(kAllVerbs, "port");
  EXPECT_EQ(*set_config_text(before, "c", port, {"9100"}),
            "# my mesh\nport = 9100  # behind the router\n\npeer = [\n  \"a:1\",\n  \"b:2\"\n] # "
            "two\nname = \"a # b\"\n");
  const Setting& peer = *find_setting(kAllVerbs, "peer");
  EXPECT_EQ(*set_config_text(before, "c", peer, {"c:3"}),
            "# my mesh\nport = 9000  # behind the router\n\npeer = [\"c:3\"] # two\nname = \"a # "
            "b\"\n");
  const Setting& name = *find_setting(kAllVerbs, "name");
  EXPECT_EQ(*set_config_text("name = \"a # b\"\n", "c", name, {"say \"hi\"\\"}),
            "name = \"say \\\"hi\\\"\\\\\"\n");
  EXPECT_EQ(*set_config_text("port = 1", "c", *find_setting(kAllVerbs, "quiet"), {"yes"}),
            "port = 1\nquiet = true\n");
  EXPECT_EQ(*unset_config_text(before, "c", "peer"),
            "# my mesh\nport = 9000  # behind the router\n\nname = \"a # b\"\n");
  EXPECT_EQ(*unset_config_text(before, "c", "listen"), before);
  EXPECT_EQ(set_config_text(before, "c", port, {"x"}).error().message,
            "port x: not a whole number from 0 to 65535");
  EXPECT_FALSE(set_config_text("port = ", "c", port, {"1"}).ok());
}

// Whatever set writes, a reader finds again.
TEST(ConfigText, WhatIsSetIsRead) {
  for (const std::string& key : config_keys()) {
    const Setting& setting = *find_setting(kAllVerbs, key);
    const bool list = setting.kind == Kind::kTexts || setting.kind == Kind::kAddresses;
    const std::string value =
        setting.kind == Kind::kAddress || setting.kind == Kind::kAddresses ? "host:1"
        : setting.kind == Kind::kLayers                                    ? "0:3"
        : setting.kind == Kind::kSize                                      ? "8G"
        : setting.kind == Kind::kSwitch                                    ? "true"
        : setting.kind == Kind::kChoice
            ? std::string(setting.choices.substr(0, setting.choices.find('|')))
        : setting.kind == Kind::kText || list ? "ä\t\"\x01"
                                              : "1";
    const Result<std::string> text = set_config_text("", "c", setting, {value});
    ASSERT_TRUE(text.ok()) << key << " " << text.error().message;
    const auto entries = parse_config_text(*text, "c");
    ASSERT_TRUE(entries.ok()) << *text << entries.error().message;
    ASSERT_EQ(entries->size(), 1u);
    EXPECT_EQ(entries->front().texts, (std::vector<std::string>{value})) << *text;
    EXPECT_EQ(entries->front().list, list);
  }
}

}  // namespace
}  // namespace mesh::cli
