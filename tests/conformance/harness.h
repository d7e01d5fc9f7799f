#pragma once
// Fixtures of the conformance table: random tensors, batches, backends to compare.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ops/ops.h"

namespace mesh::conformance {

using ops::DType;

// A host tensor that owns its bytes.
ops::HostTensor random_tensor(std::uint64_t seed, DType dtype, tensor::Shape shape,
                              double scale = 1.0);
std::vector<std::byte> random_bytes(std::uint64_t seed, DType dtype, std::int64_t count,
                                    double scale = 1.0);

std::vector<DType> quantised_types();
// Random blocks of a quantised type. Their scales lie around 2^-6, so that sums stay finite; wild
// ones are denormal, zero or of either sign as well.
ops::HostTensor random_blocks(std::uint64_t seed, DType dtype, tensor::Shape shape, bool wild);

// Values of one operator's result.
struct Output {
  DType dtype = DType::kF32;
  std::int64_t rows = 0, cols = 0;
  std::vector<std::byte> bytes;
  double at(std::int64_t index) const;
  std::vector<std::byte> row(std::int64_t index) const;
  friend bool operator==(const Output&, const Output&) = default;
};
Output output_of(ops::Step& step, const ops::Tensor& x);

// A batch without KV: `rows` rows of the residual stream.
struct RowBatch {
  RowBatch(int rows, std::int64_t hidden, DType residual, std::vector<std::byte> values);
  std::vector<TokenId> tokens;
  std::vector<std::int32_t> positions, row_start, kv_length, page_start;
  std::vector<std::byte> residual;
  ops::Batch batch;
};

struct Variant {
  std::string name;  // "avx2/2"
  std::string isa;
  int threads = 1;
};
// Every instruction set this processor has, with 1 and 2 threads.
std::vector<Variant> cpu_variants();
std::unique_ptr<ops::Backend> make_variant(const Variant& variant);

// One row of the conformance table.
struct Case {
  std::string name;
  std::function<Output(ops::Backend&)> run;
  bool rounded_cache =
      false;  // a bf16 cache behind a norm or rotation: K may round to the neighbour
};
std::vector<Case> operator_cases();  // products, norms, gates, residual, embedding, rows
std::vector<Case> attention_cases();

// Empty, or what is wrong: f32 max|Δ| ≤ 1e-5·rms(ref); bf16 within 1 ulp of max(|ref|, rms(ref)).
std::string compare_to_ref(const Output& got, const Output& ref, bool rounded_cache);

// Eight experts or so with random weights: gate and up of one type, down of another.
struct ExpertsSetup {
  std::int64_t experts = 8, hidden = 64, intermediate = 48;
  DType gate_up = DType::kBF16, down = DType::kBF16;
};
std::unique_ptr<ops::Experts> load_random_experts(ops::Backend& backend, const ExpertsSetup& setup);

// --- attention
// ---------------------------------------------------------------------------------------------------
struct AttentionSetup {
  int heads = 2, kv_heads = 1, head_dim = 24;
  DType store = DType::kF32;
  bool rope = false, interleaved = false, norm = false, sinks = false;
  int window = 0;
};
// Rows of a sequence to run in one step.
struct Chunk {
  int sequence = 0;
  int rows = 0;
};
using Plan = std::vector<std::vector<Chunk>>;  // steps
// Runs `plan` on a NaN-filled cache with scattered pages; row (sequence, position) always has the
// same q, k and v. Result: per sequence its rows in order.
std::vector<Output> run_attention(ops::Backend& backend, const AttentionSetup& setup,
                                  const Plan& plan);

}  // namespace mesh::conformance
