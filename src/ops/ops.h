#pragma once
// The operator interface: what a model may ask of a device. Coarse operators, opaque tensors, eager
// or enqueued. A model family is written once over Step; ref, cpu, cuda and mlx implement it.
// Numerics: docs/numerics.md.
//
// Rules that let one decoder run everywhere:
//  - model code never reads tensor values; control flow depends on configuration and batch shape
//  only;
//  - tensors die with their Step; weights and KV pools belong to the backend that made them and are
//  immutable /
//    touched only through attention();
//  - activations inside a layer are f32; the residual stream has the model's residual type (f32 or
//  bf16).

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "ops/kv_layout.h"
#include "tensor/tensor.h"

namespace mesh::ops {

using tensor::HostTensor;

// A segment of attention is so many consecutive absolute positions; part of the numeric class, like
// kPageTokens.
inline constexpr int kSegmentTokens = 512;

// --- weights
// ------------------------------------------------------------------------------------------------------
// A matrix [out, in] in the backend's own layout, with an optional bias [out] f32. Also serves as
// an embedding table (out = vocabulary, in = hidden), so that a tied head needs no second copy.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual std::int64_t in() const = 0;
  virtual std::int64_t out() const = 0;
  virtual std::uint64_t bytes() const = 0;  // device memory held
};

// A vector of f32 (norm weights); f16 and bf16 sources are widened exactly.
class Vec {
 public:
  virtual ~Vec() = default;
  virtual std::int64_t size() const = 0;
  virtual std::uint64_t bytes() const = 0;
};

// A matrix [out, in] of a checkpoint as a backend gets it: whole in host memory, or read by rows as
// the backend asks for them, so that no matrix lies in memory beside what is made of it. A backend
// reads every row once and passes all of them to `show`; ops/host_weights.h has both in one loop.
struct MatrixSource {
  // Fills `out`, whole rows, from row `first` on. Any thread, several at once, in any order.
  using Read = std::function<Result<void>(std::int64_t first, std::span<std::byte> out)>;
  // Is shown the rows as they were read, ascending, each once, matrix after matrix as they were
  // given: what counts and hashes them. Empty: nobody looks. One thread at a time.
  using Show = std::function<void(std::span<const std::byte> rows)>;

  MatrixSource() = default;
  MatrixSource(HostTensor whole)  // NOLINT(google-explicit-constructor): a matrix in memory is one
      : info(std::move(whole.info)), bytes(whole.bytes), owner(std::move(whole.owner)) {}
  MatrixSource(tensor::TensorInfo table, Read reader, Show shown)
      : info(std::move(table)), read(std::move(reader)), show(std::move(shown)) {}

  tensor::TensorInfo info;
  std::span<const std::byte> bytes;  // of a matrix in memory; `owner` as in HostTensor
  std::shared_ptr<const void> owner;
  Read read;  // of one that is not
  Show show;
};

// One source of a fused matrix: weight [out, in] in f32, bf16, f16 or a quantised type, which may
// differ from source to source; bias [out] or none.
struct LinearSource {
  MatrixSource weight;
  std::optional<HostTensor> bias;
};

// The experts of one mixture-of-experts layer: for each a gate and an up matrix [intermediate,
// hidden] and a down matrix [hidden, intermediate].
class Experts {
 public:
  virtual ~Experts() = default;
  virtual std::int64_t experts() const = 0;
  virtual std::int64_t hidden() const = 0;
  virtual std::int64_t intermediate() const = 0;
  virtual std::uint64_t bytes() const = 0;  // device memory held
};

struct ExpertsShape {
  std::int64_t experts = 0, hidden = 0, intermediate = 0;
};

// One expert as it lies in a checkpoint: matrices of f32, bf16, f16 or a quantised type each.
struct ExpertSource {
  MatrixSource gate, up;  // [intermediate, hidden]
  MatrixSource down;      // [hidden, intermediate]
};

// Gives expert `index`; asked in ascending order, each once, and loaded before the next is asked
// for.
using ExpertReader = std::function<Result<ExpertSource>(std::int64_t index)>;

// How the experts of a row and their weights follow from its router logits: p is the softmax over
// all experts; the top_k largest p are chosen, ties to the lower id; a weight is p, divided by the
// sum over the chosen if `normalise`. Source: Shazeer et al. 2017; Qwen2-MoE and Qwen3-MoE.
struct RoutingSpec {
  int top_k = 1;  // 1..experts
  bool normalise = false;
};

// --- KV cache
// -----------------------------------------------------------------------------------------------------
// Physical pages of one stage. Page 0 is reserved. Which sequence owns a page is kvcache's
// business.
class KvPool {
 public:
  virtual ~KvPool() = default;
  virtual std::uint32_t pages() const = 0;           // page ids are [0, pages)
  virtual std::uint64_t bytes_per_page() const = 0;  // over all layers of the stage
  // Tests fill unwritten slots with NaN to prove that they are never read.
  virtual void fill_with_nan() = 0;
};

// --- one step
// -----------------------------------------------------------------------------------------------------
// Ragged rows of several sequences; the rows of a sequence are consecutive positions. T rows, S
// sequences.
struct Batch {
  std::span<const TokenId> tokens;          // [T]; used by embed()
  std::span<const std::int32_t> positions;  // [T] absolute
  std::span<const std::int32_t>
      row_start;  // [S+1] rows of sequence s: [row_start[s], row_start[s+1])
  std::span<const std::int32_t> kv_length;   // [S] positions in the cache after this step
  std::span<const std::int32_t> page_start;  // [S+1] into pages
  std::span<const PageId> pages;             // page p of sequence s holds positions [64p, 64p+64)
  std::span<const std::byte>
      residual_in;  // [T, hidden] of the residual type; empty on the first stage
  std::int64_t hidden = 0;
  DType residual = DType::kBF16;
  std::size_t rows() const { return positions.size(); }
  std::size_t sequences() const { return kv_length.size(); }
};

// Value of a step; row-major [rows, cols]. Model code passes it on and never looks inside.
struct Tensor {
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  void* data = nullptr;        // eager host backends: memory of the step's arena
  std::shared_ptr<void> node;  // lazy backends
};

// Frequencies of rotary embedding, made once by model code; theta = position * inv_freq[i], in f64.
struct RopeTable {
  std::vector<double> inv_freq;  // [dims / 2]
  double factor = 1.0;           // multiplies cos and sin (YaRN attention factor)
  bool interleaved = false;      // pairs (2i, 2i+1) instead of (i, i + dims/2)
  int dims() const { return static_cast<int>(inv_freq.size()) * 2; }
};

// Grouped-query attention of one layer. qkv row: heads·head_dim of q, then kv_heads·head_dim of k,
// then of v. Order: q/k norm (per head, when given), RoPE on the first rope->dims() of a head, K/V
// rounded to the cache's type and written, then every row attends to the cached positions ≤ its own
// (window > 0: only the last `window`).
struct AttentionSpec {
  int layer = 0;  // within the stage
  int heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1.0f;
  const RopeTable* rope = nullptr;
  const Vec* q_norm = nullptr;  // [head_dim]
  const Vec* k_norm = nullptr;  // [head_dim]
  float eps = 0.0f;             // of the q/k norms
  int window = 0;
  const Vec* sinks = nullptr;  // [heads]
};

// Operators of one step, in program order. The batch given to begin_step() outlives the Step.
class Step {
 public:
  virtual ~Step() = default;
  // Rows of `table` for the batch's tokens, rounded to the residual type: [T, hidden].
  virtual Tensor embed(const Linear& table) = 0;
  // The batch's residual_in as a tensor.
  virtual Tensor residual_in() = 0;
  // y = (x · 1/sqrt(mean(x²) + eps)) · w, f32 [rows, cols]. x: f32 or the residual type.
  virtual Tensor rms_norm(const Tensor& x, const Vec& w, float eps) = 0;
  // y = x·Wᵀ + bias, f32 [rows, out]. x: f32 [rows, in].
  virtual Tensor linear(const Tensor& x, const Linear& w) = 0;
  // f32 [T, heads·head_dim] from qkv f32 [T, (heads + 2·kv_heads)·head_dim].
  virtual Tensor attention(const AttentionSpec& spec, const Tensor& qkv) = 0;
  // silu(gate)·up, f32 [rows, n] from f32 [rows, 2n] with gate in the first half of a row.
  virtual Tensor swiglu(const Tensor& gate_up) = 0;
  // f32 [rows, hidden]: the sum over a row's chosen experts, in ascending id, of weight · down ·
  // (silu(gate·x) · up·x). x: f32 [rows, hidden]; router_logits: f32 [rows, experts].
  virtual Tensor experts(const Tensor& x, const Tensor& router_logits, const Experts& weights,
                         const RoutingSpec& routing) = 0;
  // y = y + sigmoid(gate_logit)·shared, in place, all f32; y and shared of one shape, gate_logit
  // [rows, 1].
  virtual void add_gated(Tensor& y, const Tensor& shared, const Tensor& gate_logit) = 0;
  // residual = round(residual + y), in place; y f32 of the same shape.
  virtual void add_residual(Tensor& residual, const Tensor& y) = 0;
  // Rows of x in the given order.
  virtual Tensor take_rows(const Tensor& x, std::span<const std::int32_t> rows) = 0;
  // The tensor's bytes in host memory, valid until the Step dies; waits for the device.
  virtual std::span<const std::byte> read(const Tensor& x) = 0;
};

// --- device
// -------------------------------------------------------------------------------------------------------
struct BackendInfo {
  std::string name;           // "cpu", "ref"
  std::string numeric_class;  // "cpu/1"; nodes of one plan share it
  std::string isa;            // "avx512", "neon" …; "" where it has no meaning
  int threads = 1;
  std::string device;  // human readable, "AMD EPYC, 2 cores"
};

// Which kernel an operator took, for --explain and for tests that a forced ISA is obeyed.
struct KernelUse {
  std::string op;      // "linear.bf16"
  std::string kernel;  // "avx512.few_rows"
  std::string isa;     // instruction set the kernel is written for
  friend auto operator<=>(const KernelUse&, const KernelUse&) = default;
};

// One per device. Calls come from one compute thread at a time.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual BackendInfo info() const = 0;
  // Sources are stacked along `out` in order. Errors: unsupported (names tensor and type),
  // invalid_argument (shapes).
  virtual Result<std::unique_ptr<Linear>> load_linear(std::span<const LinearSource> fused) = 0;
  virtual Result<std::unique_ptr<Vec>> load_vec(const HostTensor& source) = 0;
  // Errors: those of `read` (which ends the load), unsupported, invalid_argument (shapes).
  virtual Result<std::unique_ptr<Experts>> load_experts(const ExpertsShape& shape,
                                                        const ExpertReader& read) = 0;
  // Errors: resource_exhausted with the bytes wanted.
  virtual Result<std::unique_ptr<KvPool>> make_kv(const KvLayout& layout, std::uint32_t pages) = 0;
  // kv may be null for a batch that runs no attention. Page tables must cover kv_length.
  virtual std::unique_ptr<Step> begin_step(KvPool* kv, const Batch& batch) = 0;
  // Kernels used since the backend was made, sorted, without repeats.
  virtual std::vector<KernelUse> kernels_used() const = 0;
  // Hash of every kernel family on fixed inputs at awkward sizes: equal for every instruction set
  // and thread count of one numeric class. A few milliseconds; computed once at construction.
  virtual std::uint64_t self_test() const = 0;
};

}  // namespace mesh::ops
