// main() of every GoogleTest program. A program that runs no test fails (a typing error in a filter
// is not a success), and with CI=true a skipped test fails: there, what a test needs has to be
// present.

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

bool skips_are_failures() {
  const char* ci = std::getenv("CI");
  return ci != nullptr && std::string_view(ci) == "true";
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const bool listing = GTEST_FLAG_GET(list_tests);
  const int status = RUN_ALL_TESTS();
  if (status != 0 || listing) return status;
  const testing::UnitTest& run = *testing::UnitTest::GetInstance();
  if (run.test_to_run_count() == 0) {
    std::fprintf(stderr, "no test matches the filter \"%s\"\n", GTEST_FLAG_GET(filter).c_str());
    return 1;
  }
  const int left_out = run.skipped_test_count() + run.disabled_test_count();
  if (left_out > 0 && skips_are_failures()) {
    std::fprintf(stderr, "%d tests skipped or disabled, and CI=true makes that a failure\n",
                 left_out);
    return 1;
  }
  return 0;
}
