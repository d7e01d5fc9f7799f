#pragma once
// One case for each line of base/limits.h.

#include <functional>
#include <string>
#include <vector>

namespace mesh::limits_test {

// A limit that an input can break, and what is then said.
struct BrokenLimit {
  std::string name;
  std::function<std::string()> trip;
  std::string sentence;
};

// A limit that orders, delays or ends something instead: the test that shows it.
struct ShownLimit {
  std::string name;
  std::string file;  // from the root
  std::string test;  // "Suite.Name"
};

// A limit whose effect no test can see, and why not.
struct SilentLimit {
  std::string name;
  std::string why;
};

const std::vector<BrokenLimit>& broken_limits();
const std::vector<ShownLimit>& shown_limits();
const std::vector<SilentLimit>& silent_limits();

}  // namespace mesh::limits_test
