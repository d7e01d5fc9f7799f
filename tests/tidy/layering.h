#pragma once
// The architecture as a check: an #include may only follow a declared dependency.

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "tidy/source_tree.h"

namespace mesh::tidy {

struct Module {
  std::set<std::string> deps;       // modules whose headers it may include
  std::set<std::string> test_deps;  // more of them, for its tests only
};
using ModuleTable = std::map<std::string, Module>;

// Lines "name|dep,dep|dep,…" as mesh_module() writes them into modules.txt.
ModuleTable parse_modules(std::string_view text);

// The module a file or an include belongs to: the longest declared name that is a folder of it; ""
// if none.
std::string module_of(const ModuleTable& modules, std::string_view path_below_src);

// Every quoted include of every file below src/ names the own module or a declared direct
// dependency.
Findings check_layering(const std::vector<SourceFile>& files, const ModuleTable& modules);

}  // namespace mesh::tidy
