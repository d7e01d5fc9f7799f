// The rules applied to this repository. rules_test.cc shows that each of them can fail.

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <iterator>

#include "tidy/docs.h"
#include "tidy/layering.h"
#include "tidy/rules.h"
#include "tidy/source_tree.h"

namespace mesh::tidy {
namespace {

const std::vector<SourceFile>& all_files() {
  static const std::vector<SourceFile> files =
      load_files(MESH_SOURCE_DIR, {"CMakeLists.txt", "src", "tests", "bench", "fuzz", "cmake",
                                   "tools", "docs", "examples", "web", "run", "test", ".ci",
                                   "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "models"});
  return files;
}

ModuleTable modules() {
  std::ifstream in(MESH_MODULES_FILE);
  return parse_modules(
      std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()));
}

void expect_none(const Findings& findings) {
  EXPECT_TRUE(findings.empty()) << "\n" << to_text(findings);
}

TEST(Tidy, FindsTheSources) {
  EXPECT_GT(all_files().size(), 40u);
  EXPECT_EQ(modules().count("base"), 1u);
}
TEST(Tidy, IncludesFollowTheDeclaredLayers) {
  expect_none(check_layering(all_files(), modules()));
}
TEST(Tidy, FilesAreShort) {
  Findings long_files;
  expect_none(check_sizes(all_files(), &long_files));
  if (!long_files.empty()) std::printf("long files:\n%s", to_text(long_files).c_str());
}
TEST(Tidy, DecisionCodeTouchesNoClockThreadOrEnvironment) {
  expect_none(check_banned_calls(all_files()));
}
TEST(Tidy, HeavyHeadersStayInSourceFiles) {
  expect_none(check_heavy_headers(all_files()));
}
TEST(Tidy, NothingIsPromised) {
  expect_none(check_promises(all_files()));
}
TEST(Tidy, HeadersAreHeaders) {
  expect_none(check_headers(all_files()));
}
TEST(Tidy, EveryFileIsBuilt) {
  expect_none(check_listed_in_cmake(all_files()));
}
TEST(Tidy, EveryLimitBoundsSomething) {
  expect_none(check_limits_used(all_files()));
}
TEST(Tidy, LinksLeadSomewhere) {
  expect_none(check_links(all_files(), list_paths(MESH_SOURCE_DIR)));
}
TEST(Tidy, NamedPathsExist) {
  expect_none(check_named_paths(all_files(), list_paths(MESH_SOURCE_DIR)));
}
TEST(Tidy, NamedFunctionsExist) {
  expect_none(check_named_functions(all_files(), all_files()));
}

}  // namespace
}  // namespace mesh::tidy
