#pragma once
// The files of the repository as the tidy rules see them. Rules are pure functions from files to
// findings, so that each one is also tried on a tiny bad input.

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::tidy {

struct SourceFile {
  std::string path;                // from the repository root, with '/'
  std::vector<std::string> lines;  // as they are
  std::vector<std::string>
      code;  // the same with comments removed and literals emptied (C++ files only)
};

// One broken rule: where, and what to do about it. `line` counts from 1; 0 = the whole file.
struct Finding {
  std::string path;
  int line = 0;
  std::string message;
  friend bool operator==(const Finding&, const Finding&) = default;
};
using Findings = std::vector<Finding>;

// "path:line: message" per finding, one a line.
std::string to_text(const Findings& findings);

// A file from its text: splits lines and, for C++ names, fills `code`.
SourceFile make_file(std::string path, std::string_view text);

// Every text file below the given folders or files of `root`, sorted by path; test data and build
// trees left out.
std::vector<SourceFile> load_files(const std::string& root, const std::vector<std::string>& places);

// All paths (files and folders) of the repository, for checks of links.
std::set<std::string> list_paths(const std::string& root);

bool is_cpp(std::string_view path);
bool is_header(std::string_view path);
bool is_test(std::string_view path);  // x_test.cc, x_test_support.h and everything below tests/
bool is_identifier_char(char c);

// First position of `word` in `line` at or after `from` with no identifier character on either
// side; npos if none.
std::size_t find_word(std::string_view line, std::string_view word, std::size_t from = 0);

// Parts between `separator`; empty parts are dropped.
std::vector<std::string> split(std::string_view text, char separator);

// "docs/../README.md" → "README.md"; keeps a leading "..".
std::string normalize(std::string_view path);

// The folder of a path, "" for a file at the root.
std::string parent(std::string_view path);

}  // namespace mesh::tidy
