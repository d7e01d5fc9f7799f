#pragma once
// Reading what transformers computed for a fixture, and the distances that its values are compared
// by.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "formats/byte_source.h"
#include "formats/safetensors.h"

namespace mesh {

using formats::TensorSource;

inline std::shared_ptr<TensorSource> open_tensors(const std::string& path) {
  return formats::open_safetensors(formats::open_file(path).value()).value();
}

inline std::vector<float> floats(const TensorSource& source, const std::string& name) {
  const tensor::HostTensor host = source.read(name).value();
  std::vector<float> out(static_cast<std::size_t>(tensor::element_count(host.info.shape)));
  if (host.info.dtype == tensor::DType::kF32) {
    std::memcpy(out.data(), host.bytes.data(), host.bytes.size());
    return out;
  }
  EXPECT_EQ(host.info.dtype, tensor::DType::kBF16) << name;
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::uint16_t value = 0;
    std::memcpy(&value, host.bytes.data() + 2 * i, sizeof(value));
    out[i] = tensor::bf16_to_f32(value);
  }
  return out;
}

inline std::vector<std::int64_t> integers(const TensorSource& source, const std::string& name) {
  const tensor::HostTensor host = source.read(name).value();
  EXPECT_EQ(host.info.dtype, tensor::DType::kI64) << name;
  std::vector<std::int64_t> out(host.bytes.size() / 8);
  std::memcpy(out.data(), host.bytes.data(), host.bytes.size());
  return out;
}

inline double relative_l2(const std::vector<float>& found, const std::vector<float>& expected) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = double{found[i]} - double{expected[i]};
    error += difference * difference;
    norm += double{expected[i]} * double{expected[i]};
  }
  return std::sqrt(error / norm);
}

}  // namespace mesh
