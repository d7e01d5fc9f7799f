#pragma once
// Checked-in models for the tests of this module.

#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace mesh::text {

inline std::string read_test_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  MESH_CHECK(in.good(), "cannot read {}", path);
  std::stringstream out;
  out << in.rdbuf();
  return out.str();
}

// "pocket" is the built-in model, the others are fixtures.
inline std::string model_path(const std::string& model) {
  if (model == "pocket") return std::string(MESH_REPOSITORY) + "/models/pocket/";
  return std::string(MESH_TEST_DATA) + "/models/" + model + "/";
}

inline std::unique_ptr<Tokenizer> load_tokenizer(const std::string& model) {
  auto tokenizer = Tokenizer::parse(read_test_file(model_path(model) + "tokenizer.json"),
                                    read_test_file(model_path(model) + "tokenizer_config.json"));
  return std::move(tokenizer).value();
}

inline std::unique_ptr<ChatTemplate> load_template(const std::string& model) {
  auto chat = ChatTemplate::parse(read_test_file(model_path(model) + "chat_template.jinja"));
  return std::move(chat).value();
}

}  // namespace mesh::text
