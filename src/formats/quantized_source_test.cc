#include "formats/quantized_source.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tensor/quantized.h"

namespace mesh::formats {
namespace {

using tensor::DType;

std::vector<float> values_of(const tensor::HostTensor& host) {
  const std::int64_t count = tensor::element_count(host.info.shape);
  std::vector<float> values(static_cast<std::size_t>(count));
  tensor::dequantize(host.info.dtype, host.bytes.data(), count, values.data());
  return values;
}

TEST(QuantizeModel, ConvertsProjectionsAndEndsAndNothingElse) {
  for (const Quantize to : {Quantize::kQ8, Quantize::kQ4}) {
    const ModelFiles plain = open_builtin_model();
    ModelFiles files = open_builtin_model();
    const QuantizeReport report = quantize_model(files, to);
    EXPECT_EQ(files.name, to == Quantize::kQ8 ? "pocket:q8" : "pocket:q4");
    std::size_t matrices = 0;
    for (const tensor::TensorInfo& info : files.tensors->tensors()) {
      const bool is_projection = info.name.find("_proj.weight") != std::string::npos;
      const bool is_end = info.name == "model.embed_tokens.weight" || info.name == "lm_head.weight";
      const DType was = plain.tensors->find(info.name)->dtype;
      const DType wanted = !is_projection && !is_end              ? was
                           : is_projection && to == Quantize::kQ4 ? DType::kQ4_0
                                                                  : DType::kQ8_0;
      EXPECT_EQ(info.dtype, wanted) << info.name;
      if (info.dtype == was) continue;
      ++matrices;
      const std::vector<float> before = values_of(plain.tensors->read(info.name).value());
      const std::vector<float> after = values_of(files.tensors->read(info.name).value());
      double error = 0, size = 0;
      for (std::size_t i = 0; i < before.size(); ++i) {
        error += std::pow(before[i] - after[i], 2);
        size += std::pow(before[i], 2);
      }
      EXPECT_LT(std::sqrt(error / size), wanted == DType::kQ8_0 ? 0.01 : 0.12) << info.name;
    }
    EXPECT_GT(matrices, 10u);
    EXPECT_EQ(report.matrices, matrices);
    EXPECT_LT(report.bytes_after, report.bytes_before);
    EXPECT_NE(quantize_text(to, report).find("converted to Q"), std::string::npos);
  }
}

TEST(QuantizeModel, PartsEqualTheWhole) {
  ModelFiles files = open_builtin_model();
  quantize_model(files, Quantize::kQ4);
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const tensor::HostTensor whole = files.tensors->read(name).value();
  for (const std::uint64_t offset : {0, 1, 17, 18, 500}) {
    std::vector<std::byte> part(333);
    ASSERT_TRUE(files.tensors->read_part(name, offset, part).ok());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.bytes.begin() + offset)) << offset;
  }
  std::vector<std::byte> beyond(1);
  EXPECT_FALSE(files.tensors->read_part(name, whole.bytes.size(), beyond).ok());
}

TEST(ParseQuantize, SaysWhatThereIs) {
  EXPECT_EQ(parse_quantize("q4").value(), Quantize::kQ4);
  EXPECT_EQ(parse_quantize("").value(), Quantize::kNone);
  EXPECT_EQ(parse_quantize("q5").error().message, "--quantize q5: choose q8 or q4");
}

}  // namespace
}  // namespace mesh::formats
