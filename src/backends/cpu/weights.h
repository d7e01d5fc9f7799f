#pragma once
// Weights in the layout of the product kernels.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backends/cpu/kernels.h"
#include "backends/cpu/memory.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "ops/ops.h"

namespace mesh::backends::cpu {

// Panels of 64 outputs, the last one of 16, 32, 48 or 64; within a panel k ascends and the outputs
// of one k lie side by side: a thread reads one sequential stream. Outputs that pad the last group
// hold zeros and are never stored.
class CpuLinear final : public ops::Linear {
 public:
  // One type for all sources keeps that type; mixed sources become f32. Errors: see
  // ops::Backend::load_linear.
  static Result<std::unique_ptr<CpuLinear>> make(std::span<const ops::LinearSource> sources,
                                                 ThreadPool& pool);

  std::int64_t in() const override { return in_; }
  std::int64_t out() const override { return out_; }
  std::uint64_t bytes() const override { return memory_.size() + bias_.size() * sizeof(float); }

  WeightType type() const { return type_; }
  std::int64_t panels() const { return (out_ + kPanel - 1) / kPanel; }
  int groups(std::int64_t panel) const;
  const std::byte* panel(std::int64_t panel) const;
  const float* bias() const { return bias_.empty() ? nullptr : bias_.data(); }
  // Row `index` of the matrix as exact f32, for an embedding.
  void row(std::int64_t index, float* out) const;

 private:
  CpuLinear() = default;
  std::int64_t in_ = 0, out_ = 0;
  WeightType type_ = kWeightF32;
  int element_ = 4;
  Block memory_;
  std::vector<float> bias_;
};

class CpuVec final : public ops::Vec {
 public:
  // f32, bf16 or f16 of rank 1. Errors: unsupported (type), invalid_argument (shape, bytes).
  static Result<std::unique_ptr<CpuVec>> make(const ops::HostTensor& source);
  std::int64_t size() const override { return static_cast<std::int64_t>(values_.size()); }
  std::uint64_t bytes() const override { return values_.size() * sizeof(float); }
  const float* data() const { return values_.data(); }

 private:
  std::vector<float> values_;
};

}  // namespace mesh::backends::cpu
