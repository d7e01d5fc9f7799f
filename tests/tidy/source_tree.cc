#include "tidy/source_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace mesh::tidy {
namespace {

namespace fs = std::filesystem;

bool has_suffix(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

// Walks C++ text once and blanks comments and the inside of literals; line breaks stay where they
// are.
class Stripper {
 public:
  explicit Stripper(std::string_view text) : text_(text), out_(text) {}

  std::string run() {
    while (at_ < text_.size()) {
      if (starts("//")) {
        blank_until("\n", false);
      } else if (starts("/*")) {
        blank_until("*/", true);
      } else if (starts("R\"") && !after_identifier()) {
        raw_string();
      } else if (text_[at_] == '"') {
        quoted('"');
      } else if (text_[at_] == '\'' && !after_identifier()) {  // 1'000 is no literal
        quoted('\'');
      } else {
        ++at_;
      }
    }
    return out_;
  }

 private:
  bool starts(std::string_view what) const { return text_.substr(at_, what.size()) == what; }
  bool after_identifier() const { return at_ > 0 && is_identifier_char(text_[at_ - 1]); }
  void blank_to(std::size_t end) {
    for (; at_ < end; ++at_)
      if (text_[at_] != '\n') out_[at_] = ' ';
  }
  void blank_until(std::string_view end, bool include_end) {
    const std::size_t found = text_.find(end, at_ + 2);
    if (found == std::string_view::npos) return blank_to(text_.size());
    blank_to(include_end ? found + end.size() : found);
  }
  void raw_string() {
    const std::size_t open = text_.find('(', at_);
    if (open == std::string_view::npos) return blank_to(text_.size());
    const std::string close = ")" + std::string(text_.substr(at_ + 2, open - at_ - 2)) + "\"";
    blank_until(close, true);
  }
  void quoted(char quote) {
    ++at_;
    while (at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n')
      blank_to(std::min(text_.size(), at_ + (text_[at_] == '\\' ? 2 : 1)));
    ++at_;
  }

  std::string_view text_;
  std::string out_;
  std::size_t at_ = 0;
};

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

// Build trees, results of runs and version control.
bool skipped(std::string_view path) {
  const std::string_view top = path.substr(0, path.find('/'));
  return top == ".git" || top == "build" || top.substr(0, 6) == "build-" || top == "out" ||
         path.find("node_modules") != std::string_view::npos;
}

// Fixtures are data, not text we write.
bool is_fixture(std::string_view path) {
  return path.substr(0, 11) == "tests/data/";
}

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

bool is_text_we_write(std::string_view path) {
  for (std::string_view suffix : {".h", ".cc", ".cu", ".inc", ".proto", ".cmake", "CMakeLists.txt",
                                  ".md", ".sh", ".py", ".js", ".mjs", ".css", ".html"})
    if (has_suffix(path, suffix)) return true;
  return path == "run" || path == "test" || path == ".ci/run";
}

}  // namespace

std::string to_text(const Findings& findings) {
  std::string text;
  for (const Finding& f : findings)
    text += f.line > 0 ? fmt::format("{}:{}: {}\n", f.path, f.line, f.message)
                       : fmt::format("{}: {}\n", f.path, f.message);
  return text;
}

SourceFile make_file(std::string path, std::string_view text) {
  SourceFile file;
  file.lines = split_lines(text);
  if (is_cpp(path)) file.code = split_lines(Stripper(text).run());
  file.path = std::move(path);
  return file;
}

std::vector<SourceFile> load_files(const std::string& root,
                                   const std::vector<std::string>& places) {
  std::vector<SourceFile> files;
  for (const std::string& path : list_paths(root)) {
    const bool wanted = std::any_of(places.begin(), places.end(), [&](const std::string& place) {
      return path == place || path.substr(0, place.size() + 1) == place + "/";
    });
    if (wanted && !is_fixture(path) && is_text_we_write(path) &&
        fs::is_regular_file(fs::path(root) / path))
      files.push_back(make_file(path, read(fs::path(root) / path)));
  }
  return files;
}

std::set<std::string> list_paths(const std::string& root) {
  std::set<std::string> paths;
  for (auto it = fs::recursive_directory_iterator(root); it != fs::recursive_directory_iterator();
       ++it) {
    const std::string path = it->path().lexically_relative(root).generic_string();
    if (skipped(path)) {
      it.disable_recursion_pending();
      continue;
    }
    paths.insert(path);
  }
  return paths;
}

bool is_header(std::string_view path) {
  return has_suffix(path, ".h");
}
bool is_cpp(std::string_view path) {
  return is_header(path) || has_suffix(path, ".cc") || has_suffix(path, ".cu") ||
         has_suffix(path, ".inc");
}
bool is_test(std::string_view path) {
  return path.substr(0, 6) == "tests/" || has_suffix(path, "_test.cc") ||
         path.find("_test_") != std::string_view::npos;
}
bool is_identifier_char(char c) {
  return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

std::size_t find_word(std::string_view line, std::string_view word, std::size_t from) {
  for (std::size_t at = line.find(word, from); at != std::string_view::npos;
       at = line.find(word, at + 1)) {
    const std::size_t end = at + word.size();
    const bool left = at == 0 || !is_identifier_char(line[at - 1]);
    const bool right = end >= line.size() || !is_identifier_char(line[end]);
    if (left && right) return at;
  }
  return std::string_view::npos;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(separator), text.size());
    if (end > 0) parts.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

std::string normalize(std::string_view path) {
  std::string text = fs::path(path).lexically_normal().generic_string();
  if (!text.empty() && text.back() == '/') text.pop_back();
  return text;
}

std::string parent(std::string_view path) {
  return fs::path(path).parent_path().generic_string();
}

}  // namespace mesh::tidy
