// Blocks of every GGUF type against the values that ggml gives them, by bits.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "formats/safetensors.h"
#include "tensor/quantized.h"

namespace mesh::formats {
namespace {

using tensor::DType;

class Dequantize : public testing::TestWithParam<const char*> {};

TEST_P(Dequantize, GivesTheBitsOfGgml) {
  const std::string path = std::string(MESH_TEST_DATA "/dequant/GGUF_") + GetParam();
  auto source = open_safetensors(open_file(path + ".safetensors").value()).value();
  const tensor::HostTensor raw = source->read("raw").value();
  const tensor::HostTensor expected = source->read("expected").value();
  const DType type = tensor::dtype_from_name(GetParam()).value();
  ASSERT_EQ(expected.info.shape, (tensor::Shape{8, 512}));
  ASSERT_EQ(raw.bytes.size(), 8 * 512 / tensor::block_elements(type) * tensor::block_bytes(type));
  std::vector<float> values(8 * 512);
  tensor::dequantize(type, raw.bytes.data(), 8 * 512, values.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t got = 0, want = 0;
    std::memcpy(&got, &values[i], 4);
    std::memcpy(&want, expected.bytes.data() + 4 * i, 4);
    ASSERT_EQ(got, want) << "row " << i / 512 << " column " << i % 512;
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, Dequantize,
                         testing::Values("F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
                                         "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
                                         "MXFP4"),
                         [](const auto& type) { return std::string(type.param); });

}  // namespace
}  // namespace mesh::formats
