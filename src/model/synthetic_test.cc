#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "model/random_blocks.h"
#include "model/random_model.h"
#include "model/synthetic_shapes.h"
#include "tensor/quantized.h"

namespace mesh::model {
namespace {

using tensor::DType;

TEST(RandomBlocks, HaveTheDeviationAskedFor) {
  constexpr int kBlocks = 400;
  for (const tensor::BlockScales& line : tensor::block_scales()) {
    const DType type = line.dtype;
    const std::size_t elements = tensor::block_elements(type);
    std::vector<float> values(kBlocks * elements);
    std::vector<std::byte> block(tensor::block_bytes(type));
    for (std::size_t i = 0; i < kBlocks; ++i) {
      random_block(type, 7, i, 0.03f, block);
      tensor::dequantize(type, block.data(), static_cast<std::int64_t>(elements),
                         values.data() + i * elements);
    }
    double sum = 0, squares = 0;
    for (const float x : values) {
      ASSERT_TRUE(std::isfinite(x)) << tensor::dtype_name(type);
      sum += x;
      squares += static_cast<double>(x) * x;
    }
    const double count = static_cast<double>(values.size());
    // MXFP4 has powers of two as scales.
    const double slack = type == DType::kMXFP4 ? 1.5 : 1.2;
    EXPECT_GT(std::sqrt(squares / count), 0.03 / slack) << tensor::dtype_name(type);
    EXPECT_LT(std::sqrt(squares / count), 0.03 * slack) << tensor::dtype_name(type);
    EXPECT_LT(std::fabs(sum / count), 0.003) << tensor::dtype_name(type);
  }
}

TEST(RandomModel, GivesTheSameBlocksHoweverTheyAreRead) {
  RandomModelOptions options;
  options.hidden = 256;
  options.intermediate = 512;
  options.head_dim = 64;
  options.dtype = DType::kQ4_K;
  options.mixed = true;
  const auto files = make_random_model(options).value();
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  EXPECT_EQ(files.tensors->find(name)->dtype, DType::kQ4_K);
  EXPECT_EQ(files.tensors->find("model.layers.0.self_attn.v_proj.weight")->dtype, DType::kQ6_K);
  EXPECT_EQ(files.tensors->find("model.layers.1.self_attn.v_proj.weight")->dtype, DType::kQ4_K);
  EXPECT_EQ(files.tensors->find("model.embed_tokens.weight")->dtype, DType::kQ6_K);
  EXPECT_EQ(files.tensors->find("model.norm.weight")->dtype, DType::kF32);
  const auto whole = files.tensors->read(name).value();
  for (std::uint64_t offset : {0, 1, 143, 144, 145, 999}) {
    std::vector<std::byte> part(700);
    ASSERT_TRUE(files.tensors->read_part(name, offset, part).ok());
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.bytes.begin() + offset)) << offset;
  }
}

TEST(RandomModel, RefusesRowsThatAreNotWholeBlocks) {
  RandomModelOptions options;
  options.dtype = DType::kQ4_K;
  const auto files = make_random_model(options);
  ASSERT_FALSE(files.ok());
  EXPECT_NE(files.error().message.find("rows are not whole blocks of 256"), std::string::npos)
      << files.error().message;
}

TEST(SyntheticShapes, AreModels) {
  for (const char* name : {"qwen3-0.6b", "llama-3.2-1b", "moe-8x", "qwen3-8b"}) {
    const auto options = synthetic_shape(name, "q4_0");
    ASSERT_TRUE(options.ok()) << options.error().message;
    const auto files = make_random_model(*options);
    ASSERT_TRUE(files.ok()) << files.error().message;
  }
  EXPECT_EQ(synthetic_shape("qwen3-0.6b", "q9").error().code, Code::kInvalidArgument);
  EXPECT_NE(synthetic_shape("gpt-9", "q4_0").error().message.find("llama-3.2-1b"),
            std::string::npos);
}

}  // namespace
}  // namespace mesh::model
