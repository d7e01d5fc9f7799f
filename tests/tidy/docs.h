#pragma once
// Documentation that stays true: links, paths and the function names that pages refer to.

#include <set>
#include <string>
#include <vector>

#include "tidy/source_tree.h"

namespace mesh::tidy {

// Every relative link [text](path#heading) of the .md files leads to a path, and its heading
// exists.
Findings check_links(const std::vector<SourceFile>& pages, const std::set<std::string>& paths);

// Every `path/file.ext` in backticks whose path begins with a folder of the repository exists.
Findings check_named_paths(const std::vector<SourceFile>& pages,
                           const std::set<std::string>& paths);

// Every `path/file.cc:Class::function` in backticks: the file is there (from the root or below
// src/) and each part of the name occurs in it as a word.
Findings check_named_functions(const std::vector<SourceFile>& pages,
                               const std::vector<SourceFile>& sources);

}  // namespace mesh::tidy
