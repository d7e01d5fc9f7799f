// Each rule on a tiny bad input: a check that has never failed is not known to work.

#include <gtest/gtest.h>

#include "tidy/docs.h"
#include "tidy/layering.h"
#include "tidy/rules.h"
#include "tidy/source_tree.h"

namespace mesh::tidy {
namespace {

// "path:line" of each finding.
std::vector<std::string> places(const Findings& findings) {
  std::vector<std::string> out;
  for (const Finding& f : findings) out.push_back(f.path + ":" + std::to_string(f.line));
  return out;
}
using Places = std::vector<std::string>;

TEST(TidyStrip, EmptiesCommentsAndLiterals) {
  const SourceFile file = make_file(
      "a.cc",
      "int a = 1'000; // sleep(1)\n/* rand()\n time() */ call(\"getenv(\\\"x\\\")\", ')');\n"
      "auto r = R\"x(\n usleep(1) \"\n)x\"; f();\n");
  ASSERT_EQ(file.code.size(), 6u);
  EXPECT_EQ(file.code[0], "int a = 1'000;            ");
  EXPECT_EQ(file.code[2].find("time"), std::string::npos);
  EXPECT_NE(file.code[2].find("call(\""), std::string::npos);
  EXPECT_EQ(file.code[2].find("getenv"), std::string::npos);
  EXPECT_EQ(file.code[4].find("usleep"), std::string::npos);
  EXPECT_NE(file.code[5].find("f();"), std::string::npos);
}

TEST(TidyLayering, RefusesUndeclaredModules) {
  const ModuleTable modules =
      parse_modules("base||\nnet|base|\nbackends/cpu|base|\nscheduler|base|net\n");
  const std::vector<SourceFile> files = {
      make_file("src/scheduler/plan.cc",
                "#include \"scheduler/plan.h\"\n#include \"base/ids.h\"\n#include \"net/tcp.h\"\n"),
      make_file("src/scheduler/plan_test.cc",
                "#include \"net/tcp.h\"\n#include \"backends/cpu/gemm.h\"\n"),
      make_file("src/net/tcp.cc",
                "// #include \"scheduler/plan.h\"\n#include \"tcp.h\"\n#include <vector>\n"),
      make_file("src/orphan/x.cc", "int x;\n")};
  EXPECT_EQ(places(check_layering(files, modules)),
            (Places{"src/scheduler/plan.cc:3", "src/scheduler/plan_test.cc:2", "src/net/tcp.cc:2",
                    "src/orphan/x.cc:0"}));
}

TEST(TidySizes, RefusesLongFilesAndListsTheNext) {
  std::string text;
  for (std::size_t i = 0; i < kLinesHard + 1; ++i) text += "x\n";
  const std::string middle = text.substr(0, 2 * (kLinesAimed + 1));
  Findings long_files;
  EXPECT_EQ(places(check_sizes({make_file("a.cc", text), make_file("b.cc", middle)}, &long_files)),
            (Places{"a.cc:0"}));
  EXPECT_EQ(places(long_files), (Places{"b.cc:0"}));
}

TEST(TidyBans, FindsEachBannedCall) {
  for (const char* line :
       {"auto t = std::chrono::steady_clock::now();", "x = time(nullptr);", "std::random_device d;",
        "return rand() % 2;", "std::this_thread::sleep_for(d);", "::usleep(3);",
        "if (getenv(\"A\")) {}", "std::thread t(run);", "auto f = std::async(run);",
        "std::vector<std::jthread> all;", "return std::time(nullptr);"})
    EXPECT_EQ(
        places(check_banned_calls({make_file("src/scheduler/a.cc", std::string(line) + "\n")})),
        (Places{"src/scheduler/a.cc:1"}))
        << line;
}

TEST(TidyBans, LeavesTheRestAlone) {
  for (const char* line :
       {"Instant time() const;", "event.time();", "clock->time();", "#include <thread>",
        "// std::thread", "int rand_seed = 1;", "std::this_thread::yield();",
        "int n = std::thread::hardware_concurrency();", "log(\"time(x)\");",
        "Duration sleep(int n);", "world::time(3);"})
    EXPECT_EQ(
        to_text(check_banned_calls({make_file("src/scheduler/a.cc", std::string(line) + "\n")})),
        "")
        << line;
}

TEST(TidyBans, KnowsWhereTheyAreAllowed) {
  const std::string text = "auto t = std::chrono::steady_clock::now();\nstd::thread w(run);\n";
  EXPECT_EQ(places(check_banned_calls(
                {make_file("src/env/real_clock.cc", text), make_file("src/net/tcp.cc", text)})),
            Places{});
  EXPECT_EQ(places(check_banned_calls({make_file("src/node/worker.cc", text),
                                       make_file("src/base/queue_test.cc", text)})),
            (Places{"src/node/worker.cc:1", "src/base/queue_test.cc:1"}));
  const std::string update = "if (std::getenv(\"MESH_UPDATE_GOLDEN\")) {}\n";
  EXPECT_EQ(places(check_banned_calls(
                {make_file("src/wire/a_test.cc", update), make_file("src/wire/a.cc", update)})),
            (Places{"src/wire/a.cc:1"}));
}

TEST(TidyHeaders, RefusesHeavyOnes) {
  const std::string text =
      "#pragma once\n#include <nlohmann/json.hpp>\n// #include <regex>\n#include <string>\n";
  EXPECT_EQ(
      places(check_heavy_headers({make_file("src/a/a.h", text), make_file("src/a/a.cc", text)})),
      (Places{"src/a/a.h:2"}));
}

TEST(TidyHeaders, WantsPragmaOnceAndNoIncludedSources) {
  EXPECT_EQ(places(check_headers({make_file("a.h", "// why\nint x;\n"),
                                  make_file("b.h", "// why\n#pragma once\n"),
                                  make_file("c.cc", "#include \"x/y.cc\"\n")})),
            (Places{"a.h:1", "c.cc:1"}));
}

TEST(TidyPromises, FindsThemInEveryKindOfFile) {
  const std::string promise = std::string("TO") + "DO";
  EXPECT_EQ(places(check_promises({make_file("a.cc", "int x;  // " + promise + ": later\n"),
                                   make_file("docs/a.md", std::string("FIX") + "ME\n"),
                                   make_file("b.sh", "MASTODON " + promise + "S\n")})),
            (Places{"a.cc:1", "docs/a.md:1"}));
}

TEST(TidyCmake, FindsFilesThatNothingBuilds) {
  const std::vector<SourceFile> files = {
      make_file("src/a/CMakeLists.txt",
                "mesh_module(NAME a SRCS x.cc sub/y.cc\n  HDRS x.h)  # z.cc\n"),
      make_file("src/a/x.cc", "#include \"a/used.inc\"\n// #include \"a/dead.inc\"\n"),
      make_file("src/a/x.h", ""),
      make_file("src/a/sub/y.cc", ""),
      make_file("src/a/z.cc", ""),
      make_file("src/a/used.inc", ""),
      make_file("src/a/dead.inc", ""),
      make_file("src/b/x.cc", "")};
  EXPECT_EQ(places(check_listed_in_cmake(files)),
            (Places{"src/a/z.cc:0", "src/a/dead.inc:0", "src/b/x.cc:0"}));
}

TEST(TidyLimits, FindsBoundsThatBoundNothing) {
  const std::vector<SourceFile> files = {
      make_file("src/base/limits.h",
                "constexpr std::size_t kUsed = 1;\nconstexpr int kDead = 2;\nconstexpr int "
                "kTestOnly = 3;\n"
                "constexpr int kBase = 4;\nconstexpr int kTwice = 2 * kBase;\n"),
      make_file("src/net/a.cc", "if (n > limits::kUsed || n > limits::kTwice) return; // kDead\n"),
      make_file("src/net/a_test.cc", "f(limits::kTestOnly);\n")};
  EXPECT_EQ(places(check_limits_used(files)),
            (Places{"src/base/limits.h:2", "src/base/limits.h:3"}));
}

TEST(TidyDocs, FollowsLinks) {
  const std::vector<SourceFile> pages = {
      make_file("docs/a.md",
                "# One title\n[ok](../README.md) [ok](b.md#two-words) "
                "[bad](gone.md)\n[web](https://example.org)\n"
                "[bad](b.md#three) [ok](#one-title)\n```\n[code](none.md)\n```\n"),
      make_file("docs/b.md", "## Two words\n"), make_file("README.md", "[bad](docs/c.md)\n")};
  EXPECT_EQ(places(check_links(pages, {"docs", "docs/a.md", "docs/b.md", "README.md"})),
            (Places{"docs/a.md:2", "docs/a.md:4", "README.md:1"}));
}

TEST(TidyDocs, ChecksPathsInBackticks) {
  const SourceFile page = make_file(
      "README.md", "`src/base/` `src/base/ids.h` `src/<name>.cc` `src/none.h`\n`tests/none`\n");
  EXPECT_EQ(places(check_named_paths({page}, {"src", "src/base", "src/base/ids.h"})),
            (Places{"README.md:1", "README.md:2"}));
}

TEST(TidyDocs, ChecksFunctionsInBackticks) {
  const std::vector<SourceFile> sources = {
      make_file("src/api/chat.cc", "void Chat::begin() {}  // finish\n")};
  const SourceFile page = make_file(
      "docs/life_of_a_request.md",
      "`api/chat.cc:Chat::begin` `src/api/chat.cc:begin()` `make test:all`\n`api/chat.cc:finish`\n"
      "`api/gone.cc:begin`\n");
  EXPECT_EQ(places(check_named_functions({page}, sources)),
            (Places{"docs/life_of_a_request.md:2", "docs/life_of_a_request.md:3"}));
}

}  // namespace
}  // namespace mesh::tidy
