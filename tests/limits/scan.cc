#include "limits/scan.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>

namespace mesh::limits_test {
namespace {

std::string without_comments(const std::string& text) {
  std::istringstream lines(text);
  std::string out, line;
  while (std::getline(lines, line)) {
    const std::size_t first = line.find_first_not_of(' ');
    if (first != line.npos && line.compare(first, 2, "//") == 0) continue;
    out += line.substr(0, line.find("  // ")) + "\n";
  }
  return out;
}

std::vector<std::string> columns(const std::string& line) {
  static const std::string kBar = " | ";
  std::vector<std::string> out;
  std::size_t from = 0;
  for (std::size_t at; out.size() < 3 && (at = line.find(kBar, from)) != line.npos;) {
    out.push_back(line.substr(from, at - from));
    from = at + kBar.size();
  }
  out.push_back(line.substr(from));
  return out;
}

}  // namespace

std::string read_source(const std::string& path) {
  std::ifstream in(std::string(MESH_SOURCE_DIR "/") + path, std::ios::binary);
  EXPECT_TRUE(in.good()) << "cannot read " << path;
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::vector<std::string> limit_names(const std::string& text) {
  static const std::regex kName(R"(\bconstexpr\s+[\w:]+\s+(\w+)\s*=)");
  std::vector<std::string> names;
  for (std::sregex_iterator at(text.begin(), text.end(), kName), end; at != end; ++at)
    names.push_back((*at)[1]);
  return names;
}

std::set<std::string> literal_words(const std::string& text) {
  const std::string code = without_comments(text);
  static const std::regex kLiteral(R"raw((#include |\b(?:line|exact)\()?"((?:[^"\\\n]|\\.)*)")raw");
  static const std::regex kWord(R"([A-Za-z_]\w*)");
  std::set<std::string> words;
  for (std::sregex_iterator at(code.begin(), code.end(), kLiteral), end; at != end; ++at)
    if (!(*at)[1].matched && std::regex_match((*at)[2].str(), kWord)) words.insert((*at)[2]);
  return words;
}

std::map<std::string, std::map<std::string, WireField>> wire_fields(const std::string& text) {
  static const std::regex kLine(R"(message (\w+) \{|(?:optional |repeated )?(\w+) (\w+) = (\d+);)");
  std::map<std::string, std::map<std::string, WireField>> out;
  std::string message;
  const std::string code = without_comments(text);
  for (std::sregex_iterator at(code.begin(), code.end(), kLine), end; at != end; ++at) {
    if ((*at)[1].matched)
      message = (*at)[1];
    else if (!message.empty())
      out[message][(*at)[3]] = {std::stoi((*at)[4]), (*at)[2]};
  }
  return out;
}

bool has_test(const std::string& text, const std::string& name) {
  const std::size_t dot = name.find('.');
  if (dot == name.npos) return false;
  return std::regex_search(text, std::regex("\\bTEST(_F|_P)?\\(" + name.substr(0, dot) + ",\\s*" +
                                            name.substr(dot + 1) + "\\)"));
}

FieldTable parse_field_table(const std::string& text) {
  FieldTable table;
  std::istringstream lines(text);
  std::string line, source;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (line.empty() || line[0] == '#') continue;
    if (line[0] == '[') {
      source = line.substr(1, line.find(']') - 1);
      table.words[source];
    } else if (line.rfind("no fields: ", 0) == 0) {
      std::istringstream words(line.substr(line.find(':') + 1));
      for (std::string word; words >> word;) table.words[source].insert(word);
    } else {
      const std::vector<std::string> parts = columns(line);
      EXPECT_EQ(parts.size(), 4u) << "fields.txt:" << number << ": field | how | input | sentence";
      if (parts.size() == 4)
        table.cases.push_back({source, parts[0], parts[1], parts[2], parts[3], number});
    }
  }
  return table;
}

}  // namespace mesh::limits_test
