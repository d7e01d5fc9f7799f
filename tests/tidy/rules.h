#pragma once
// The rules of the style guide that a program can check. Each takes files and returns what is wrong
// with them.

#include <string>
#include <vector>

#include "tidy/source_tree.h"

namespace mesh::tidy {

inline constexpr std::size_t kLinesHard = 1000;  // a longer file fails
inline constexpr std::size_t kLinesAimed = 600;  // a longer file is listed

// Files of more than kLinesHard lines; those above kLinesAimed are appended to `long_files` when
// given.
Findings check_sizes(const std::vector<SourceFile>& files, Findings* long_files = nullptr);

// Clocks, randomness, sleeping, environment variables and threads outside the places that rules.cc
// lists.
Findings check_banned_calls(const std::vector<SourceFile>& files);

// Expensive library headers in our own headers.
Findings check_heavy_headers(const std::vector<SourceFile>& files);

// Notes that promise work instead of doing it.
Findings check_promises(const std::vector<SourceFile>& files);

// Headers begin with #pragma once; no file includes a .cc.
Findings check_headers(const std::vector<SourceFile>& files);

// Every C++ file is named in a CMakeLists.txt of its folder or of one above it. `files` holds both
// kinds.
Findings check_listed_in_cmake(const std::vector<SourceFile>& files);

// Every constant of base/limits.h is used by code that is no test.
Findings check_limits_used(const std::vector<SourceFile>& files);

}  // namespace mesh::tidy
