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

// Host memory that matrices are read through on their way into a layout: two windows, one being
// filled while the other is packed, kept from matrix to matrix. One thread.
class ReadWindows {
 public:
  // Makes both of at least `bytes`. False when the system has no memory.
  bool reserve(std::uint64_t bytes);
  std::byte* data(std::int64_t window) const { return windows_[window % 2].data(); }

 private:
  Block windows_[2];
};

// Consecutive outputs of a matrix whose weights have one type.
struct LinearPart {
  ops::DType dtype = ops::DType::kF32;
  int quant = -1;                    // QuantType, or −1 for a part of plain numbers
  WeightType type = kWeightF32;      // of a part of plain numbers
  std::int64_t begin = 0, outs = 0;  // outputs [begin, begin + outs) of the matrix
  const std::byte* data = nullptr;   // first panel or group, 64-byte aligned
  std::size_t group_bytes = 0;       // of a quantised part
  std::int64_t groups() const { return (outs + kLanes - 1) / kLanes; }
  std::int64_t panels() const { return (outs + kPanel - 1) / kPanel; }
  int panel_groups(std::int64_t panel) const;
};

// Parts stacked along the outputs, in one block of memory. Plain numbers: panels of 64 outputs, the
// last one of 16, 32, 48 or 64; within a panel k ascends and the outputs of one k lie side by side:
// a thread reads one sequential stream. Quantised types: groups of 16 outputs (quant.h). Outputs
// that pad the last group are never stored.
class CpuLinear final : public ops::Linear {
 public:
  // Sources that follow one another and have one type make one part. Errors: see
  // ops::Backend::load_linear.
  static Result<std::unique_ptr<CpuLinear>> make(std::span<const ops::LinearSource> sources,
                                                 const QuantKernels& quant, ThreadPool& pool,
                                                 ReadWindows& windows);

  std::int64_t in() const override { return in_; }
  std::int64_t out() const override { return out_; }
  std::uint64_t bytes() const override { return memory_.size() + bias_.size() * sizeof(float); }

  std::span<const LinearPart> parts() const { return parts_; }
  const float* bias() const { return bias_.empty() ? nullptr : bias_.data(); }
  // Row `index` of the matrix as exact f32, for an embedding. `blocks` holds row_bytes().
  void row(std::int64_t index, std::byte* blocks, float* out) const;
  // Bytes of the longest quantised row as its source stores it; 0 without quantised parts.
  std::size_t row_bytes() const { return row_bytes_; }

 private:
  CpuLinear() = default;
  std::int64_t in_ = 0, out_ = 0;
  bool isa_signed_ = false;
  std::size_t row_bytes_ = 0;
  std::vector<LinearPart> parts_;
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
