#include "formats/gguf.h"

#include <gtest/gtest.h>

namespace mesh::formats {
namespace {

TEST(Gguf, Opens) {
  for (const char* name : {"llama-q8_0.gguf", "qwen3-q4_k_m.gguf", "gpt-oss-mxfp4.gguf",
                           "llama-q8_0-split-00002-of-00002.gguf"}) {
    const auto model = open_gguf(std::string(MESH_TEST_DATA) + "/gguf/" + name);
    ASSERT_TRUE(model.ok()) << model.error().message;
    printf("%s %zu %zu %s\n", model->name.c_str(), model->tensors->tensors().size(),
           model->metadata.values.size(), model->origin.c_str());
  }
}

}  // namespace
}  // namespace mesh::formats
