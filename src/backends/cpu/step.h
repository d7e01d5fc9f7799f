#pragma once
// One step of the cpu backend: eager operators over pooled buffers.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "backends/cpu/kernel_use.h"
#include "backends/cpu/kernels.h"
#include "backends/cpu/kv_pool.h"
#include "backends/cpu/memory.h"
#include "base/thread_pool.h"
#include "ops/ops.h"

namespace mesh::backends::cpu {

// What all steps of a backend share.
struct Device {
  const KernelTable* kernels = nullptr;
  QuantKernels quant;
  ThreadPool* pool = nullptr;
  KernelUses* uses = nullptr;
};

class StepSlot;
class CpuLinear;
struct LinearPart;

class CpuStep final : public ops::Step {
 public:
  CpuStep(const Device& device, StepSlot& slot, CpuKvPool* kv, const ops::Batch& batch);

  ops::Tensor embed(const ops::Linear& table) override;
  ops::Tensor residual_in() override;
  ops::Tensor rms_norm(const ops::Tensor& x, const ops::Vec& w, float eps) override;
  ops::Tensor linear(const ops::Tensor& x, const ops::Linear& w) override;
  ops::Tensor attention(const ops::AttentionSpec& spec, const ops::Tensor& qkv) override;
  ops::Tensor swiglu(const ops::Tensor& gate_up) override;
  // These two are in experts.cc.
  ops::Tensor experts(const ops::Tensor& x, const ops::Tensor& router_logits,
                      const ops::Experts& weights, const ops::RoutingSpec& routing) override;
  void add_gated(ops::Tensor& y, const ops::Tensor& shared, const ops::Tensor& gate_logit) override;
  void add_residual(ops::Tensor& residual, const ops::Tensor& y) override;
  ops::Tensor take_rows(const ops::Tensor& x, std::span<const std::int32_t> rows) override;
  std::span<const std::byte> read(const ops::Tensor& x) override;

  // The memory belongs to the slot: a decode step allocates nothing, not even itself.
  static void operator delete(CpuStep* step, std::destroying_delete_t);

  // --- for the operators, also those in attention.cc ---
  const Device& device() const { return device_; }
  const ops::Batch& batch() const { return batch_; }
  CpuKvPool* kv() const { return kv_; }
  ops::Tensor make(ops::DType dtype, std::int64_t rows, std::int64_t cols);
  std::shared_ptr<void> scratch(std::uint64_t bytes);
  // Cosines and sines [rows, pairs] of the batch's positions, made once per step and table.
  struct Rotation {
    const ops::RopeTable* table = nullptr;
    std::shared_ptr<void> memory;
    const float* cosines = nullptr;
    const float* sines = nullptr;
  };
  const Rotation& rotation(const ops::RopeTable& table);

 private:
  // Activations rounded for quantised weights, kept for further products of the same rows.
  struct Rounded {
    const void* x = nullptr;  // null: nothing is kept
    std::int64_t rows = 0, cols = 0;
    std::shared_ptr<void> tiles;
  };
  void check_pages() const;
  std::shared_ptr<void> take(std::uint64_t bytes);
  // Whoever writes to memory that `rounded_` may stem from says so.
  void forget_rounded(const void* memory);
  std::shared_ptr<void> rounded(const ops::Tensor& x, bool wide);
  void quantised_part(const ops::Tensor& x, const CpuLinear& w, const LinearPart& part,
                      const ops::Tensor& y);
  void float_part(const ops::Tensor& x, const CpuLinear& w, const LinearPart& part,
                  const ops::Tensor& y);

  const Device device_;
  StepSlot& slot_;
  CpuKvPool* kv_;
  const ops::Batch& batch_;
  std::array<Rotation, 4> rotations_;
  std::size_t rotation_next_ = 0;
  std::array<Rounded, 2> rounded_;  // to blocks of 32, of 256
};

// Storage of one step and the buffers its tensors come from; reused by later steps.
class StepSlot {
 public:
  bool busy() const { return busy_; }
  std::unique_ptr<ops::Step> begin(const Device& device, CpuKvPool* kv, const ops::Batch& batch);
  void end(CpuStep* step);  // by CpuStep's own delete
  BufferPool& buffers() { return buffers_; }
  // Keeps a tensor that was read until the step ends.
  void pin(std::shared_ptr<void> memory) { pinned_.push_back(std::move(memory)); }

 private:
  BufferPool buffers_;
  std::vector<std::shared_ptr<void>> pinned_;
  bool busy_ = false;
  alignas(CpuStep) std::array<std::byte, sizeof(CpuStep)> storage_;
};

// Rows of a row operator below which a second thread does not pay.
constexpr std::int64_t grain_rows(std::int64_t cols) {
  constexpr std::int64_t kElements = 4096;
  return cols < kElements ? kElements / (cols < 1 ? 1 : cols) : 1;
}

// Runs f(begin, end, worker) over [0, count) in parts of at least `grain`; parts only ever split
// whole items.
template <typename F>
void for_range(ThreadPool& pool, std::int64_t count, std::int64_t grain, const F& f) {
  const std::int64_t wanted = pool.threads() == 1 ? 1 : std::int64_t{pool.threads()} * 4;
  const std::int64_t most = (count + grain - 1) / grain;
  const int parts = static_cast<int>(wanted < most ? wanted : most);
  struct Job {
    const F& f;
    std::int64_t count;
    int parts;
  } const job{f, count, parts};
  pool.run(parts, [&job](int part, int worker) {
    job.f(job.count * part / job.parts, job.count * (part + 1) / job.parts, worker);
  });
}

}  // namespace mesh::backends::cpu
