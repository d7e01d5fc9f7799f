#pragma once
// What there is to have a case: the limits, the words in a parser's source and the fields of the
// protocol, read from the sources themselves.

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace mesh::limits_test {

// The whole file, from the root of the repository; fails the test when it cannot be read.
std::string read_source(const std::string& path);

// The names of all constants of base/limits.h, in order.
std::vector<std::string> limit_names(const std::string& text);

// String literals of a C++ source that could be the name of a field: letters, digits and '_' only.
// Left out are comments, and the first arguments of line() and exact(), which write a text.
std::set<std::string> literal_words(const std::string& text);

struct WireField {
  int number = 0;
  std::string type;  // "uint32", "bytes" or the name of a message
};
// Message → field → what it is, of a .proto file.
std::map<std::string, std::map<std::string, WireField>> wire_fields(const std::string& text);

// Whether the test "Suite.Name" stands in the source text.
bool has_test(const std::string& text, const std::string& name);

// One line of fields.txt: "field | how | input | sentence".
struct FieldCase {
  std::string source;  // the file of the section
  std::string field, how, input, sentence;
  int line = 0;
};
struct FieldTable {
  std::vector<FieldCase> cases;
  std::map<std::string, std::set<std::string>> words;  // source → literals that are no fields
};
FieldTable parse_field_table(const std::string& text);

}  // namespace mesh::limits_test
