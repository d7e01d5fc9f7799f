// Promises of numeric class cpu/1 as a whole: its hash, its kernels, its memory.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <string>

#include "backends/backends.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/kernel_use.h"
#include "harness.h"
#include "ops/exact_math.h"

namespace {
std::atomic<std::int64_t> allocations{0};

void* counted(std::size_t size, std::size_t align) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* memory =
      std::aligned_alloc(align, (std::max<std::size_t>(size, 1) + align - 1) / align * align);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

void* operator new(std::size_t size) {
  return counted(size, alignof(std::max_align_t));
}
void* operator new(std::size_t size, std::align_val_t align) {
  return counted(size, static_cast<std::size_t>(align));
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace mesh::conformance {
namespace {

// Committed per class: a change of any bit needs a new class name.
struct ClassHash {
  const char* name;
  std::uint64_t hash;
};
constexpr ClassHash kClassHashes[] = {{"cpu/1", 0xd6bf83d04168b842ull}};

TEST(NumericClass, HashIsTheCommittedOneForEveryVariant) {
  for (const Variant& variant : cpu_variants()) {
    const auto backend = make_variant(variant);
    EXPECT_EQ(backend->info().numeric_class, kClassHashes[0].name);
    EXPECT_EQ(backend->self_test(), kClassHashes[0].hash)
        << variant.name << std::hex << " 0x" << backend->self_test();
  }
}

void run_quantised(ops::Backend& backend, DType type) {
  const ops::LinearSource source{random_blocks(1, type, {20, 256}, false), std::nullopt};
  const auto w = backend.load_linear({&source, 1}).value();
  for (const int rows : {1, 7}) {
    const RowBatch batch(rows, 256, DType::kF32, random_bytes(2, DType::kF32, rows * 256));
    const auto step = backend.begin_step(nullptr, batch.batch);
    step->linear(step->residual_in(), *w);
  }
}

TEST(NumericClass, ForcedInstructionSetIsObeyed) {
  const auto generic = backends::cpu::generic_ops();
  for (const Variant& variant : cpu_variants()) {
    const auto backend = make_variant(variant);
    EXPECT_EQ(backend->info().isa, variant.isa);
    EXPECT_TRUE(backend->kernels_used().empty());  // the self-test leaves no trace
    for (const Case& c : operator_cases())
      if (c.name.find("32769") == std::string::npos) c.run(*backend);
    for (const DType store : {DType::kF32, DType::kBF16, DType::kI8})
      run_attention(*backend, {.store = store, .rope = true}, {{{0, 9}}});
    for (const DType type : quantised_types()) run_quantised(*backend, type);
    const auto uses = backend->kernels_used();
    EXPECT_EQ(uses.size(), static_cast<std::size_t>(backends::cpu::Kernel::kCount));
    EXPECT_TRUE(std::is_sorted(uses.begin(), uses.end()));
    for (const ops::KernelUse& use : uses) {
      const bool listed = std::find(generic.begin(), generic.end(), use.op) != generic.end();
      EXPECT_EQ(use.isa, listed ? "generic" : variant.isa) << use.op;
      EXPECT_EQ(use.kernel.rfind(use.isa + ".", 0), 0u) << use.kernel;
    }
  }
}

TEST(NumericClass, ExpHasTheSameBitsAtEveryWidth) {
  std::vector<float> x;
  for (std::uint64_t bits = 0; bits < (1ull << 32); bits += 16411) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (value == value) x.push_back(value);
  }
  for (const float border : {88.72f, -87.33f})
    for (const float value :
         {border, std::nextafter(border, 1000.0f), std::nextafter(border, -1000.0f)})
      x.push_back(value);
  for (const char* isa : {"scalar_plain", "scalar", "neon", "neon_dotprod", "avx2", "avx512"}) {
    const auto kernels = backends::cpu::select_kernels(isa);
    if (!kernels.ok()) continue;
    std::vector<float> y(x.size());
    (*kernels)->exp(x.data(), static_cast<std::int64_t>(x.size()), y.data());
    for (std::size_t i = 0; i < x.size(); ++i)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(y[i]),
                std::bit_cast<std::uint32_t>(ops::class_exp(x[i])))
          << isa << " exp(" << std::hexfloat << x[i] << ")";
  }
}

TEST(CpuBackend, RefusesWhatItCannotDo) {
  using backends::cpu::make_cpu_backend;
  EXPECT_EQ(make_cpu_backend({.threads = 0, .isa = ""}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(make_cpu_backend({.threads = 1, .isa = "sse9"}).error().code, Code::kInvalidArgument);
  for (const char* isa : {"neon", "neon_dotprod", "avx2", "avx512"}) {
    const auto made = make_cpu_backend({.threads = 1, .isa = isa});
    if (made.ok()) continue;
    EXPECT_EQ(made.error().code, Code::kUnsupported);
    EXPECT_NE(made.error().message.find(isa), std::string::npos) << made.error().message;
    EXPECT_NE(made.error().message.find("has only: scalar"), std::string::npos)
        << made.error().message;
  }
  const auto unknown = backends::make_backend("tpu", {});
  EXPECT_EQ(unknown.error().code, Code::kInvalidArgument);
  EXPECT_NE(unknown.error().message.find("cpu, ref"), std::string::npos) << unknown.error().message;

  const auto cpu = backends::make_backend("cpu", {}).value();
  const ops::LinearSource integers{random_tensor(1, DType::kF32, {4, 4}), std::nullopt};
  ops::LinearSource typed = integers;
  typed.weight.info.dtype = DType::kI32;
  EXPECT_EQ(cpu->load_linear({&typed, 1}).error().code, Code::kUnsupported);
  ops::LinearSource shaped = integers;
  shaped.weight.info.shape = {4, 5};
  EXPECT_EQ(cpu->load_linear({&shaped, 1}).error().code, Code::kInvalidArgument);
  EXPECT_EQ(cpu->load_linear({}).error().code, Code::kInvalidArgument);
}

TEST(KvPool, RefusesMoreThanTheMachineHas) {
  for (const char* name : {"cpu", "ref"}) {
    const auto backend = backends::make_backend(name, {}).value();
    const ops::KvLayout layout{1024, 128, 256, DType::kF32};
    const auto pool = backend->make_kv(layout, std::numeric_limits<std::uint32_t>::max());
    ASSERT_FALSE(pool.ok());
    EXPECT_EQ(pool.error().code, Code::kResourceExhausted) << pool.error().message;
    EXPECT_NE(pool.error().message.find("bytes wanted"), std::string::npos) << pool.error().message;
    EXPECT_EQ(backend->make_kv({1, 1, 16, DType::kF16}, 4).error().code, Code::kInvalidArgument);
    EXPECT_EQ(backend->make_kv({2, 3, 20, DType::kBF16}, 5).value()->pages(), 5u);
    EXPECT_EQ(backend->make_kv({2, 3, 20, DType::kI8}, 5).value()->pages(), 5u);
  }
}

// A decoder layer as model code writes it.
void layer(ops::Step& step, ops::Tensor& r, const ops::Vec& norm, const ops::Linear& qkv,
           const ops::AttentionSpec& spec, const ops::Linear& o, const ops::Linear& up,
           const ops::Linear& down, const ops::Experts& experts, const ops::Linear& router) {
  step.add_residual(
      r, step.linear(step.attention(spec, step.linear(step.rms_norm(r, norm, 1e-6f), qkv)), o));
  step.add_residual(r,
                    step.linear(step.swiglu(step.linear(step.rms_norm(r, norm, 1e-6f), up)), down));
  const ops::Tensor x = step.rms_norm(r, norm, 1e-6f), logits = step.linear(x, router);
  step.add_residual(r, step.experts(x, logits, experts, {.top_k = 3}));
}

TEST(CpuBackend, DecodeStepDoesNotAllocateAfterWarmUp) {
  constexpr int kHidden = 64, kDim = 32;
  const auto backend = backends::make_backend("cpu", {.threads = 2}).value();
  auto load = [&](std::int64_t out, std::int64_t in) {
    const ops::LinearSource source{random_tensor(1, DType::kBF16, {out, in}, 0.05), std::nullopt};
    return backend->load_linear({&source, 1}).value();
  };
  const auto qkv = load(4 * kDim, kHidden), o = load(kHidden, 2 * kDim), up = load(2 * 96, kHidden),
             down = load(kHidden, 96), router = load(8, kHidden);
  const auto experts = load_random_experts(*backend, {});
  const auto norm = backend->load_vec(random_tensor(2, DType::kF32, {kHidden})).value();
  auto kv = backend->make_kv({3, 1, kDim, DType::kBF16}, 20).value();
  ops::RopeTable rope;
  rope.inv_freq.assign(kDim / 2, 0.25);
  std::vector<PageId> pages;
  for (std::uint32_t i = 1; i < 20; ++i) pages.push_back({i});
  const auto residual = random_bytes(3, DType::kBF16, 700 * kHidden);
  const std::vector<std::int32_t> page_start{0, 19};
  std::vector<std::int64_t> counts;
  int length = 0;
  for (const int rows : {600, 1, 1, 1, 1, 1}) {
    std::vector<std::int32_t> positions, row_start{0, rows}, kv_length{length + rows};
    for (int i = 0; i < rows; ++i) positions.push_back(length + i);
    length += rows;
    const ops::Batch batch{{},
                           positions,
                           row_start,
                           kv_length,
                           page_start,
                           pages,
                           std::span(residual).first(static_cast<std::size_t>(rows * kHidden * 2)),
                           kHidden,
                           DType::kBF16};
    const std::int64_t before = allocations.load();
    {
      const auto step = backend->begin_step(kv.get(), batch);
      ops::Tensor r = step->residual_in();
      for (int i = 0; i < 3; ++i) {
        const ops::AttentionSpec spec{
            .layer = i, .heads = 2, .kv_heads = 1, .head_dim = kDim, .scale = 0.2f, .rope = &rope};
        layer(*step, r, *norm, *qkv, spec, *o, *up, *down, *experts, *router);
      }
      ASSERT_EQ(step->read(r).size(), static_cast<std::size_t>(rows * kHidden * 2));
    }
    counts.push_back(allocations.load() - before);
  }
  EXPECT_GT(counts[0], 0);
  EXPECT_EQ(std::vector<std::int64_t>(counts.begin() + 3, counts.end()),
            std::vector<std::int64_t>(3, 0));
}

}  // namespace
}  // namespace mesh::conformance
