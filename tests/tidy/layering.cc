#include "tidy/layering.h"

#include <fmt/format.h>

namespace mesh::tidy {
namespace {

constexpr std::string_view kSource = "src/";

std::set<std::string> names(std::string_view text) {
  const std::vector<std::string> parts = split(text, ',');
  return {parts.begin(), parts.end()};
}

// The name between the quotes of `#include "…"`, or "" for any other line.
std::string quoted_include(const SourceFile& file, std::size_t line) {
  const std::string& code = file.code[line];
  const std::size_t hash = code.find_first_not_of(" \t");
  if (hash == std::string::npos || code[hash] != '#') return "";
  if (find_word(code, "include") == std::string::npos) return "";
  const std::string& raw = file.lines[line];
  const std::size_t open = raw.find('"');
  if (open == std::string::npos) return "";
  return raw.substr(open + 1, raw.find('"', open + 1) - open - 1);
}

std::string judge(const ModuleTable& modules, const std::string& own, bool test,
                  const std::string& include) {
  const std::string used = module_of(modules, include);
  if (used.empty())
    return fmt::format(
        "\"{}\" is in no module; write includes from the src/ root, \"module/file.h\"", include);
  const Module& module = modules.at(own);
  if (used == own || module.deps.count(used) > 0) return "";
  if (test && module.test_deps.count(used) > 0) return "";
  return fmt::format(
      "module '{}' includes \"{}\" but does not declare '{}': add it to {} in src/{}/"
      "CMakeLists.txt if the layer order allows it, else move the code",
      own, include, used, test ? "TEST_DEPS" : "DEPS", own);
}

}  // namespace

ModuleTable parse_modules(std::string_view text) {
  ModuleTable modules;
  for (const std::string& line : split(text, '\n')) {
    const std::size_t first = line.find('|'), second = line.find('|', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    modules[line.substr(0, first)] = {names(line.substr(first + 1, second - first - 1)),
                                      names(line.substr(second + 1))};
  }
  return modules;
}

std::string module_of(const ModuleTable& modules, std::string_view path_below_src) {
  for (std::string folder = parent(path_below_src); !folder.empty(); folder = parent(folder))
    if (modules.count(folder) > 0) return folder;
  return "";
}

Findings check_layering(const std::vector<SourceFile>& files, const ModuleTable& modules) {
  Findings findings;
  for (const SourceFile& file : files) {
    if (file.path.substr(0, kSource.size()) != kSource || !is_cpp(file.path)) continue;
    const std::string own = module_of(modules, file.path.substr(kSource.size()));
    if (own.empty()) {
      findings.push_back(
          {file.path, 0, "belongs to no module: declare its folder with mesh_module()"});
      continue;
    }
    for (std::size_t i = 0; i < file.code.size(); ++i) {
      const std::string include = quoted_include(file, i);
      if (include.empty()) continue;
      const std::string message = judge(modules, own, is_test(file.path), include);
      if (!message.empty()) findings.push_back({file.path, static_cast<int>(i) + 1, message});
    }
  }
  return findings;
}

}  // namespace mesh::tidy
