#include "backends/cpu/cpu_backend.h"

#include <fmt/format.h>

#include <vector>

#include "backends/cpu/experts.h"
#include "backends/cpu/float_mode.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/kernel_use.h"
#include "backends/cpu/kv_pool.h"
#include "backends/cpu/self_test.h"
#include "backends/cpu/step.h"
#include "backends/cpu/weights.h"
#include "base/limits.h"
#include "base/thread_pool.h"
#include "topology/topology.h"

namespace mesh::backends::cpu {
namespace {

template <typename Interface, typename Made>
Result<std::unique_ptr<Interface>> as_interface(Result<std::unique_ptr<Made>> made) {
  if (!made.ok()) return made.error();
  return std::unique_ptr<Interface>(std::move(made).value());
}

// What a worker does first: it keeps to its memory domain, where there are several.
std::function<void(int)> settling(int threads) {
  const topology::Topology& machine = topology::this_machine();
  std::vector<std::size_t> places = topology::place_workers(machine, threads);
  if (places.empty()) return {};
  return [&machine, places = std::move(places)](int worker) {
    (void)topology::keep_to(machine.domains[places[static_cast<std::size_t>(worker)]]);
  };
}

class CpuBackend final : public ops::Backend {
 public:
  CpuBackend(const CpuOptions& options, const KernelTable& kernels)
      : isa_(options.isa == "scalar_plain" ? options.isa : std::string(kernels.isa)),
        pool_(options.threads, settling(options.threads)),
        device_{&kernels, quant_kernels(kernels), &pool_, &uses_} {
    set_float_mode();
    self_test_ = hash_kernels(*this);
    uses_.clear();
  }

  ops::BackendInfo info() const override {
    return {"cpu", "cpu/1", isa_, pool_.threads(),
            fmt::format("{}, {} thread{}", processor_name(), pool_.threads(),
                        pool_.threads() == 1 ? "" : "s")};
  }
  Result<std::unique_ptr<ops::Linear>> load_linear(
      std::span<const ops::LinearSource> fused) override {
    return as_interface<ops::Linear>(CpuLinear::make(fused, device_.quant, pool_, windows_));
  }
  Result<std::unique_ptr<ops::Vec>> load_vec(const ops::HostTensor& source) override {
    return as_interface<ops::Vec>(CpuVec::make(source));
  }
  Result<std::unique_ptr<ops::Experts>> load_experts(const ops::ExpertsShape& shape,
                                                     const ops::ExpertReader& read) override {
    return as_interface<ops::Experts>(CpuExperts::make(shape, read, *this));
  }
  Result<std::unique_ptr<ops::KvPool>> make_kv(const ops::KvLayout& layout,
                                               std::uint32_t pages) override {
    return as_interface<ops::KvPool>(CpuKvPool::make(layout, pages));
  }
  std::unique_ptr<ops::Step> begin_step(ops::KvPool* kv, const ops::Batch& batch) override {
    CpuKvPool* cpu_kv = static_cast<CpuKvPool*>(kv);
    for (const auto& slot : slots_)
      if (!slot->busy()) return slot->begin(device_, cpu_kv, batch);
    slots_.push_back(std::make_unique<StepSlot>());
    return slots_.back()->begin(device_, cpu_kv, batch);
  }
  std::vector<ops::KernelUse> kernels_used() const override { return uses_.list(isa_); }
  std::uint64_t self_test() const override { return self_test_; }

 private:
  const std::string isa_;
  ThreadPool pool_;
  ReadWindows windows_;
  KernelUses uses_;
  const Device device_;
  std::vector<std::unique_ptr<StepSlot>> slots_;
  std::uint64_t self_test_ = 0;
};

}  // namespace

Result<std::unique_ptr<ops::Backend>> make_cpu_backend(const CpuOptions& options) {
  if (options.threads < 1 || options.threads > limits::kComputeThreads)
    return Error(Code::kInvalidArgument, fmt::format("{} compute threads; 1 to {} are possible",
                                                     options.threads, limits::kComputeThreads));
  MESH_ASSIGN_OR_RETURN(const KernelTable* kernels, select_kernels(options.isa));
  return std::unique_ptr<ops::Backend>(std::make_unique<CpuBackend>(options, *kernels));
}

}  // namespace mesh::backends::cpu
