#include "backends/cpu/self_test.h"

#include <array>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/hash.h"
#include "base/random.h"
#include "ops/exact_math.h"
#include "tensor/quantized.h"

namespace mesh::backends::cpu {
namespace {

using ops::DType;

// Values in [-1, 1) with 12 significant bits, exact in f32; spread over magnitudes by the cube.
std::vector<float> values(std::uint64_t seed, std::size_t count) {
  Prng prng(seed);
  std::vector<float> out(count);
  for (float& x : out) {
    const float u =
        static_cast<float>(static_cast<std::int64_t>(prng.below(4096)) - 2048) * 0x1p-11f;
    x = prng.below(4) == 0 ? u * u * u : u;
  }
  return out;
}

ops::HostTensor host(const std::vector<float>& from, DType dtype, tensor::Shape shape,
                     std::vector<std::byte>& bytes) {
  bytes.resize(from.size() * tensor::dtype_bytes(dtype));
  for (std::size_t i = 0; i < from.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &from[i], 4);
      continue;
    }
    // Any 16 bits of moderate exponent serve as f16: sign and mantissa from the value, exponent
    // below 1.
    std::uint16_t half = tensor::f32_to_bf16(from[i]);
    if (dtype == DType::kF16)
      half = static_cast<std::uint16_t>((half & 0x83FFu) | (((half >> 2) & 15u) << 10));
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return {{"self-test", dtype, std::move(shape)}, bytes, nullptr};
}

// One sequence whose pages are 1, 2, …; rows are the last `rows` of `length` positions.
struct Fixture {
  std::vector<TokenId> tokens;
  std::vector<std::int32_t> positions, row_start, kv_length, page_start;
  std::vector<PageId> pages;
  std::vector<std::byte> residual;
  ops::Batch batch;

  Fixture(int rows, int length, std::int64_t hidden, DType residual_type, std::uint64_t seed) {
    for (int i = 0; i < rows; ++i) {
      tokens.push_back(static_cast<TokenId>(i * 7 % 75));
      positions.push_back(length - rows + i);
    }
    row_start = {0, rows};
    kv_length = {length};
    for (int page = 0; page * ops::kPageTokens < length; ++page)
      pages.push_back({static_cast<std::uint32_t>(page + 1)});
    page_start = {0, static_cast<std::int32_t>(pages.size())};
    host(values(seed, static_cast<std::size_t>(rows * hidden)), residual_type, {rows, hidden},
         residual);
    batch = {tokens, positions, row_start, kv_length,    page_start,
             pages,  residual,  hidden,    residual_type};
  }
};

template <typename T>
T must(Result<T> result) {
  return std::move(result).value();
}

void hash_tensor(Hasher& hasher, ops::Step& step, const ops::Tensor& x) {
  hasher.update(step.read(x));
}

void hash_rows(Hasher& hasher, ops::Backend& backend, DType weight, DType residual, int rows) {
  constexpr std::int64_t kIn = 293, kOut = 75;
  std::vector<std::byte> weight_bytes, gate_bytes, bias_bytes, norm_bytes;
  const std::array<ops::LinearSource, 1> square{
      {{host(values(1, kOut * kIn), weight, {kOut, kIn}, weight_bytes),
        host(values(2, kOut), DType::kF32, {kOut}, bias_bytes)}}};
  const std::array<ops::LinearSource, 1> wide{
      {{host(values(3, 2 * kIn * kOut), weight, {2 * kIn, kOut}, gate_bytes), std::nullopt}}};
  const auto down = must(backend.load_linear(square));
  const auto up = must(backend.load_linear(wide));
  const auto norm = must(backend.load_vec(host(values(4, kIn), DType::kF32, {kIn}, norm_bytes)));
  Fixture fixture(rows, rows, kIn, residual, 5);
  const auto step = backend.begin_step(nullptr, fixture.batch);
  ops::Tensor r = step->residual_in();
  const ops::Tensor normed = step->rms_norm(r, *norm, 1e-6f);
  const ops::Tensor y = step->linear(normed, *down);
  const ops::Tensor gated = step->swiglu(step->linear(y, *up));
  step->add_residual(r, gated);
  hash_tensor(hasher, *step, step->embed(*down));
  for (const ops::Tensor& x : {normed, y, gated, r}) hash_tensor(hasher, *step, x);
}

// Rows that choose 3 of 11 experts of awkward sizes, then a gated addition.
void hash_experts(Hasher& hasher, ops::Backend& backend, DType weight, int rows) {
  constexpr std::int64_t kExperts = 11, kHidden = 75, kInner = 37;
  std::vector<std::byte> router_bytes, gate_bytes, expert_bytes[3];
  const auto source = [&](std::uint64_t seed, std::int64_t out, std::int64_t in,
                          std::vector<std::byte>& bytes) {
    return host(values(seed, static_cast<std::size_t>(out * in)), weight, {out, in}, bytes);
  };
  const auto load = [&](std::uint64_t seed, std::int64_t out, std::vector<std::byte>& bytes) {
    const ops::LinearSource linear{source(seed, out, kHidden, bytes), std::nullopt};
    return must(backend.load_linear({&linear, 1}));
  };
  const auto router = load(9, kExperts, router_bytes), gate = load(10, 1, gate_bytes);
  const auto experts = must(backend.load_experts(
      {kExperts, kHidden, kInner}, [&](std::int64_t e) -> Result<ops::ExpertSource> {
        const auto seed = static_cast<std::uint64_t>(20 + 3 * e);
        return ops::ExpertSource{source(seed, kInner, kHidden, expert_bytes[0]),
                                 source(seed + 1, kInner, kHidden, expert_bytes[1]),
                                 source(seed + 2, kHidden, kInner, expert_bytes[2])};
      }));
  Fixture fixture(rows, rows, kHidden, DType::kF32, 11);
  const auto step = backend.begin_step(nullptr, fixture.batch);
  const ops::Tensor x = step->residual_in(), logits = step->linear(x, *router);
  for (const bool normalise : {false, true}) {
    ops::Tensor y = step->experts(x, logits, *experts, {.top_k = 3, .normalise = normalise});
    hash_tensor(hasher, *step, y);
    step->add_gated(y, x, step->linear(x, *gate));
    hash_tensor(hasher, *step, y);
  }
}

// Any bytes are quants; scales get an exponent that keeps sums finite.
ops::HostTensor host_blocks(const tensor::BlockScales& type, std::uint64_t seed, std::int64_t rows,
                            std::int64_t cols, std::vector<std::byte>& bytes) {
  Prng prng(seed);
  const std::size_t block = tensor::block_bytes(type.dtype);
  bytes.resize(static_cast<std::size_t>(rows * cols) / tensor::block_elements(type.dtype) * block);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(prng.below(256));
  for (std::size_t at = 0; at < bytes.size(); at += block) {
    if (type.dtype == DType::kMXFP4) bytes[at] = static_cast<std::byte>(110 + prng.below(16));
    for (const int offset : {type.scale, type.min})
      if (offset >= 0) {
        std::byte& high = bytes[at + static_cast<std::size_t>(offset) + 1];
        high = (high & std::byte{0x9F}) | std::byte{0x10};
      }
  }
  return {{"self-test", type.dtype, {rows, cols}}, bytes, nullptr};
}

// An odd number of blocks, groups that are not full, every kernel's remainder of rows.
void hash_quantised(Hasher& hasher, ops::Backend& backend, const tensor::BlockScales& type) {
  constexpr std::int64_t kOut = 43;
  const std::int64_t in = tensor::block_elements(type.dtype) == 32 ? 288 : 768;
  std::vector<std::byte> weight_bytes, bias_bytes;
  const std::array<ops::LinearSource, 1> source{
      {{host_blocks(type, 9, kOut, in, weight_bytes),
        host(values(2, kOut), DType::kF32, {kOut}, bias_bytes)}}};
  const auto w = must(backend.load_linear(source));
  for (const int rows : {1, 3, 21}) {
    Fixture fixture(rows, rows, in, DType::kF32, 10);
    const auto step = backend.begin_step(nullptr, fixture.batch);
    const ops::Tensor x = step->residual_in();
    hash_tensor(hasher, *step, step->linear(x, *w));
    if (rows == 3) hash_tensor(hasher, *step, step->embed(*w));
  }
}

// 515 positions, the last 5 of them with everything in sight: a full segment, a ragged one and both
// joined.
void hash_attention(Hasher& hasher, ops::Backend& backend, DType store) {
  constexpr int kHeads = 3, kDim = 24, kCols = (kHeads + 2) * kDim, kFirst = 510, kRows = 5;
  auto kv =
      must(backend.make_kv({.layers = 1, .kv_heads = 1, .head_dim = kDim, .store = store}, 10));
  kv->fill_with_nan();
  std::vector<std::byte> norm_bytes, sink_bytes;
  const auto norm = must(backend.load_vec(host(values(6, kDim), DType::kF32, {kDim}, norm_bytes)));
  const auto sinks =
      must(backend.load_vec(host(values(7, kHeads), DType::kF32, {kHeads}, sink_bytes)));
  ops::RopeTable rope;
  for (int i = 0; i < 10; ++i) rope.inv_freq.push_back(ops::exact_pow(10000.0, -i / 10.0));
  ops::AttentionSpec spec{.heads = kHeads,
                          .kv_heads = 1,
                          .head_dim = kDim,
                          .scale = 0x1.a20bd8p-3f,
                          .rope = &rope,
                          .q_norm = norm.get(),
                          .k_norm = norm.get(),
                          .eps = 1e-6f,
                          .window = 3};
  for (const auto& [rows, length] :
       {std::array{kFirst, kFirst}, std::array{kRows, kFirst + kRows}}) {
    Fixture fixture(rows, length, kCols, DType::kF32, 8 + static_cast<std::uint64_t>(length));
    const auto step = backend.begin_step(kv.get(), fixture.batch);
    const ops::Tensor qkv = step->residual_in();
    hash_tensor(hasher, *step, step->attention(spec, qkv));
    spec.window = 0;
    spec.sinks = sinks.get();
  }
}

}  // namespace

std::uint64_t hash_kernels(ops::Backend& backend) {
  Hasher hasher;
  for (const DType weight : {DType::kF32, DType::kBF16, DType::kF16})
    for (const int rows : {1, 5, 19})
      hash_rows(hasher, backend, weight, weight == DType::kF32 ? DType::kF32 : DType::kBF16, rows);
  for (const int rows : {1, 19}) hash_experts(hasher, backend, DType::kBF16, rows);
  for (const tensor::BlockScales& type : tensor::block_scales())
    hash_quantised(hasher, backend, type);
  for (const DType store : {DType::kF32, DType::kBF16, DType::kI8})
    hash_attention(hasher, backend, store);
  for (int i = -900; i <= 900; i += 7) {
    hasher.update_value(ops::class_exp(static_cast<float>(i) * 0.1f));
    hasher.update_value(ops::exact_sin(i * 4567.25));
    hasher.update_value(ops::exact_pow(1e6, i * 1e-3));
  }
  return hasher.digest();
}

}  // namespace mesh::backends::cpu
