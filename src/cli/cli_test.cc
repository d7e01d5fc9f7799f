#include <gtest/gtest.h>

#include "cli/coverage.h"
#include "cli/suggest.h"

namespace mesh::cli {
namespace {

TEST(ClosestWord, FindsTypingErrorsAndNothingElse) {
  const std::vector<std::string> words = {"run",    "join",   "chat",   "serve",
                                          "status", "--port", "--model"};
  EXPECT_EQ(closest_word("--prot", words), "--port");
  EXPECT_EQ(closest_word("stauts", words), "status");
  EXPECT_EQ(closest_word("jion", words), "join");
  EXPECT_EQ(closest_word("xyzzy", words), "");
}

std::string status(const std::string& nodes) {
  return R"({"mesh":{"layers":8},"nodes":[)" + nodes + "]}";
}

std::string node(const std::string& name, int begin, int end, int loaded, int expected, int rows,
                 const std::string& state = "ready") {
  return fmt::format(
      R"({{"name":"{}","state":"{}","layers":[{},{}],"bytes_loaded":{},"bytes_expected":{},"rows_computed":{}}})",
      name, state, begin, end, loaded, expected, rows);
}

TEST(CheckCoverage, AcceptsADisjointCover) {
  const Result<std::string> ok =
      check_coverage(status(node("a", 0, 3, 30, 30, 9) + "," + node("b", 3, 8, 50, 50, 9)));
  ASSERT_TRUE(ok.ok()) << ok.error().message;
  EXPECT_EQ(*ok, "2 nodes hold layers 0:8 without overlap, 80 bytes in all; each computed 9 rows");
}

TEST(CheckCoverage, SaysWhatIsWrong) {
  const struct {
    std::string nodes, why;
  } cases[] = {
      {node("a", 0, 3, 30, 30, 9), "layers 3:8 have no ready node"},
      {node("a", 0, 3, 30, 30, 9) + "," + node("b", 4, 8, 50, 50, 9),
       "layers 4:8 of node b do not follow on 3: layers are missing"},
      {node("a", 0, 5, 30, 30, 9) + "," + node("b", 3, 8, 50, 50, 9),
       "layers 3:8 of node b do not follow on 5: layers are held twice"},
      {node("a", 0, 8, 29, 30, 9), "node a loaded 29 bytes, its layers 0:8 weigh 30"},
      {node("a", 0, 8, 30, 30, 0), "node a has computed no row"},
      {node("a", 0, 3, 30, 30, 9) + "," + node("b", 3, 8, 50, 50, 8),
       "node b computed 8 rows, the stages before it 9"},
      {node("a", 0, 8, 30, 30, 9, "loading"), "layers 0:8 have no ready node"},
  };
  for (const auto& c : cases) {
    const Result<std::string> result = check_coverage(status(c.nodes));
    ASSERT_FALSE(result.ok()) << c.why;
    EXPECT_EQ(result.error().message, c.why);
  }
  EXPECT_EQ(check_coverage("[]").error().code, Code::kCorrupt);
  EXPECT_EQ(check_coverage("{}").error().code, Code::kCorrupt);
}

}  // namespace
}  // namespace mesh::cli
