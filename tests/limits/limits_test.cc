// Nothing that bounds or reads an input is without a case. The lists come from the sources: a new
// limit or field makes a test fail until it has one, and so does a case of something that is gone.

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

#include "limits/limit_cases.h"
#include "limits/scan.h"
#include "limits/sentences.h"
#include "tidy/source_tree.h"

namespace mesh::limits_test {
namespace {

// Names that `found` has and `listed` lacks, or the other way round, or that are listed twice.
std::string differences(const std::set<std::string>& found,
                        const std::vector<std::string>& listed) {
  std::string text;
  std::set<std::string> seen;
  for (const std::string& name : listed)
    if (!seen.insert(name).second) text += "two cases of " + name + "\n";
  for (const std::string& name : found)
    if (seen.count(name) == 0) text += "no case of " + name + "\n";
  for (const std::string& name : seen)
    if (found.count(name) == 0) text += "a case of " + name + ", which does not exist\n";
  return text;
}

const FieldTable& table() {
  static const FieldTable kTable = parse_field_table(read_source("tests/limits/fields.txt"));
  return kTable;
}

constexpr const char* kProto = "src/wire/mesh.proto";

// The sources that ask one of the readers of JSON for fields by name, and the protocol.
std::set<std::string> parsers() {
  const std::set<std::string> kReaders = {"src/api/request_fields.cc",
                                          "src/model/config_fields.cc"};
  std::set<std::string> out = {kProto};
  for (const tidy::SourceFile& file : tidy::load_files(MESH_SOURCE_DIR, {"src"})) {
    if (!file.path.ends_with(".cc") || tidy::is_test(file.path) || kReaders.count(file.path) != 0)
      continue;
    for (const std::string& line : file.lines)
      for (const char* reader : {"RequestFields", "ConfigFields", "simdjson::dom"})
        if (line.find(reader) != line.npos) out.insert(file.path);
  }
  return out;
}

std::set<std::string> found_fields(const std::string& source,
                                   const std::set<std::string>& no_fields) {
  std::set<std::string> found;
  if (source == kProto) {
    for (const auto& [message, fields] : wire_fields(read_source(source)))
      for (const auto& [field, what] : fields) found.insert(message + "." + field);
    return found;
  }
  for (const std::string& word : literal_words(read_source(source)))
    if (no_fields.count(word) == 0) found.insert(word);
  return found;
}

TEST(Limits, EachHasOneCase) {
  const std::vector<std::string> names = limit_names(read_source("src/base/limits.h"));
  EXPECT_GT(names.size(), 100u);
  std::vector<std::string> listed;
  for (const BrokenLimit& limit : broken_limits()) listed.push_back(limit.name);
  for (const ShownLimit& limit : shown_limits()) listed.push_back(limit.name);
  for (const SilentLimit& limit : silent_limits()) listed.push_back(limit.name);
  EXPECT_EQ(differences({names.begin(), names.end()}, listed), "");
}

TEST(Limits, SayWhatIsWrong) {
  for (const BrokenLimit& limit : broken_limits())
    EXPECT_EQ(limit.trip(), limit.sentence) << limit.name;
}

TEST(Limits, AreShownByTestsThatExist) {
  for (const ShownLimit& limit : shown_limits())
    EXPECT_TRUE(has_test(read_source(limit.file), limit.test))
        << limit.name << ": " << limit.file << " has no test " << limit.test;
}

TEST(Fields, EachHasACase) {
  for (const auto& [source, no_fields] : table().words) {
    std::set<std::string> cases;
    for (const FieldCase& c : table().cases)
      if (c.source == source) cases.insert(c.field);
    EXPECT_EQ(differences(found_fields(source, no_fields), {cases.begin(), cases.end()}), "")
        << source << ": give it a line in tests/limits/fields.txt";
    if (source == kProto) continue;
    const std::set<std::string> words = literal_words(read_source(source));
    for (const std::string& word : no_fields)
      EXPECT_EQ(words.count(word), 1u) << source << " does not have \"" << word << "\"";
  }
}

TEST(Fields, SayWhatIsWrong) {
  std::set<std::pair<std::string, std::string>> inputs;
  for (const FieldCase& c : table().cases) {
    if (c.how == "any") {  // every value is right; the last column says why
      EXPECT_FALSE(c.sentence.empty()) << c.field;
      continue;
    }
    EXPECT_TRUE(inputs.emplace(c.how + " " + c.field, c.input).second) << c.field << " twice";
    EXPECT_EQ(said(c.how, c.input), c.sentence) << "fields.txt:" << c.line << ": " << c.field;
  }
}

// The table names every parser: a further source of one of these kinds does not go unseen.
TEST(Fields, EveryParserHasASection) {
  std::vector<std::string> sections;
  for (const auto& [source, words] : table().words) sections.push_back(source);
  EXPECT_EQ(differences(parsers(), sections), "");
}

TEST(Scan, FindsWhatIsMissing) {
  EXPECT_EQ(limit_names("constexpr std::size_t kA = 1;  // kB = 2\nconstexpr Duration kC = x;"),
            (std::vector<std::string>{"kA", "kC"}));
  EXPECT_EQ(
      literal_words("#include \"x\"\n  f(\"a_b\", \"two words\");  // \"c\"\n  line(\"d\", e);"),
      (std::set<std::string>{"a_b"}));
  const auto fields = wire_fields("message A {\n  repeated bytes b = 3;  // c\n}\n");
  EXPECT_EQ(fields.at("A").at("b").number, 3);
  EXPECT_EQ(fields.at("A").at("b").type, "bytes");
  EXPECT_TRUE(has_test("TEST_F(Suite, Name) {", "Suite.Name"));
  EXPECT_FALSE(has_test("TEST_F(Suite, NameTwo) {", "Suite.Name"));
  EXPECT_EQ(differences({"a", "b"}, {"b", "c", "b"}),
            "two cases of b\nno case of a\na case of c, which does not exist\n");
}

}  // namespace
}  // namespace mesh::limits_test
