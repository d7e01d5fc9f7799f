#include "tidy/docs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace mesh::tidy {
namespace {

bool is_page(std::string_view path) {
  return path.size() > 3 && path.substr(path.size() - 3) == ".md";
}

// Calls visit(line index, line) for the lines outside fenced and indented code.
template <typename Visit>
void each_prose_line(const SourceFile& page, Visit visit) {
  bool fenced = false;
  for (std::size_t i = 0; i < page.lines.size(); ++i) {
    const std::string& line = page.lines[i];
    const std::size_t first = line.find_first_not_of(' ');
    if (first != std::string::npos && line.compare(first, 3, "```") == 0) {
      fenced = !fenced;
    } else if (!fenced && line.compare(0, 4, "    ") != 0) {
      visit(i, line);
    }
  }
}

// The anchor of a heading: lower case, letters digits '-' '_' kept, blanks become '-'.
std::string slug(std::string_view heading) {
  std::string out;
  for (char c : heading) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == ' ')
      out += '-';
    else if (is_identifier_char(c) || c == '-' || static_cast<unsigned char>(c) >= 0x80)
      out += c;
  }
  return out;
}

bool has_heading(const SourceFile& page, std::string_view anchor) {
  bool found = false;
  each_prose_line(page, [&](std::size_t, const std::string& line) {
    const std::size_t text = line.find_first_not_of('#');
    if (line.empty() || line[0] != '#' || text == std::string::npos || line[text] != ' ') return;
    if (slug(std::string_view(line).substr(text + 1)) == anchor) found = true;
  });
  return found;
}

std::string judge_link(const std::vector<SourceFile>& pages, const std::set<std::string>& paths,
                       const SourceFile& page, const std::string& target) {
  if (target.empty() || target.find("://") != std::string::npos ||
      target.compare(0, 7, "mailto:") == 0)
    return "";
  const std::size_t hash = target.find('#');
  const std::string file = target.substr(0, hash);
  const std::string folder = parent(page.path);
  const std::string path =
      file.empty() ? page.path : normalize(folder.empty() ? file : folder + "/" + file);
  if (paths.count(path) == 0) return fmt::format("link to {}: no such file", target);
  if (hash == std::string::npos) return "";
  const auto other =
      std::find_if(pages.begin(), pages.end(), [&](const SourceFile& p) { return p.path == path; });
  if (other == pages.end() || has_heading(*other, target.substr(hash + 1))) return "";
  return fmt::format("link to {}: {} has no such heading", target, path);
}

// Texts between single backticks of a line.
std::vector<std::string> backticked(std::string_view line) {
  std::vector<std::string> texts;
  for (std::size_t open = line.find('`'); open != std::string_view::npos;) {
    const std::size_t close = line.find('`', open + 1);
    if (close == std::string_view::npos) break;
    texts.emplace_back(line.substr(open + 1, close - open - 1));
    open = line.find('`', close + 1);
  }
  return texts;
}

bool is_plain_path(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return is_identifier_char(c) || c == '/' || c == '.' || c == '-';
  });
}

constexpr std::array<std::string_view, 8> kRoots = {"src/",   "tests/", "tools/", "docs/",
                                                    "cmake/", "bench/", "fuzz/",  "models/"};

}  // namespace

Findings check_links(const std::vector<SourceFile>& pages, const std::set<std::string>& paths) {
  Findings findings;
  for (const SourceFile& page : pages) {
    if (!is_page(page.path)) continue;
    each_prose_line(page, [&](std::size_t i, const std::string& line) {
      for (std::size_t at = line.find("]("); at != std::string::npos;
           at = line.find("](", at + 1)) {
        const std::size_t close = line.find(')', at);
        if (close == std::string::npos) break;
        const std::string message =
            judge_link(pages, paths, page, line.substr(at + 2, close - at - 2));
        if (!message.empty()) findings.push_back({page.path, static_cast<int>(i) + 1, message});
      }
    });
  }
  return findings;
}

Findings check_named_paths(const std::vector<SourceFile>& pages,
                           const std::set<std::string>& paths) {
  Findings findings;
  for (const SourceFile& page : pages) {
    if (!is_page(page.path)) continue;
    each_prose_line(page, [&](std::size_t i, const std::string& line) {
      for (const std::string& text : backticked(line)) {
        const bool ours = std::any_of(kRoots.begin(), kRoots.end(), [&](std::string_view root) {
          return text.compare(0, root.size(), root) == 0;
        });
        if (ours && is_plain_path(text) && paths.count(normalize(text)) == 0)
          findings.push_back(
              {page.path, static_cast<int>(i) + 1,
               fmt::format("names {}, which does not exist: correct the page", text)});
      }
    });
  }
  return findings;
}

Findings check_named_functions(const std::vector<SourceFile>& pages,
                               const std::vector<SourceFile>& sources) {
  Findings findings;
  const auto judge = [&](const std::string& text) -> std::string {
    const std::size_t colon = text.find(':');
    if (colon == std::string::npos) return "";
    const std::string path = text.substr(0, colon);
    std::string name = text.substr(colon + 1);
    if (!is_cpp(path) || !is_plain_path(path) || name.empty()) return "";
    if (name.size() > 2 && name.substr(name.size() - 2) == "()") name.resize(name.size() - 2);
    const auto file = std::find_if(sources.begin(), sources.end(), [&](const SourceFile& source) {
      return source.path == path || source.path == "src/" + path;
    });
    if (file == sources.end()) return fmt::format("names {}, but there is no file {}", text, path);
    for (const std::string& part : split(name, ':')) {
      const bool found = std::any_of(
          file->code.begin(), file->code.end(),
          [&](const std::string& line) { return find_word(line, part) != std::string::npos; });
      if (!found) return fmt::format("names {}, but {} has no {}", text, file->path, part);
    }
    return "";
  };
  for (const SourceFile& page : pages) {
    if (!is_page(page.path)) continue;
    each_prose_line(page, [&](std::size_t i, const std::string& line) {
      for (const std::string& text : backticked(line)) {
        const std::string message = judge(text);
        if (!message.empty())
          findings.push_back({page.path, static_cast<int>(i) + 1, message + ": correct the page"});
      }
    });
  }
  return findings;
}

}  // namespace mesh::tidy
