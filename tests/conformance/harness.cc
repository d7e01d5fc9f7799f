#include "harness.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/cpu_backend.h"
#include "base/random.h"
#include "ops/exact_math.h"
#include "tensor/quantized.h"

namespace mesh::conformance {

std::vector<std::byte> random_bytes(std::uint64_t seed, DType dtype, std::int64_t count,
                                    double scale) {
  Prng prng(seed);
  const std::size_t size = tensor::dtype_bytes(dtype);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size);
  for (std::int64_t i = 0; i < count; ++i) {
    // The sum of three uniforms is near enough to a normal distribution.
    const double u = prng.range(-1, 1) + prng.range(-1, 1) + prng.range(-1, 1);
    const float value = static_cast<float>(u * scale);
    std::byte* at = bytes.data() + static_cast<std::size_t>(i) * size;
    if (dtype == DType::kF32) {
      std::memcpy(at, &value, 4);
      continue;
    }
    const std::uint16_t half =
        dtype == DType::kF16 ? tensor::f32_to_f16(value) : tensor::f32_to_bf16(value);
    std::memcpy(at, &half, 2);
  }
  return bytes;
}

ops::HostTensor random_tensor(std::uint64_t seed, DType dtype, tensor::Shape shape, double scale) {
  const std::int64_t count = tensor::element_count(shape);
  auto owner = std::make_shared<std::vector<std::byte>>(random_bytes(seed, dtype, count, scale));
  return {{"random", dtype, std::move(shape)}, *owner, owner};
}

namespace {

std::uint16_t random_half(Prng& prng, bool wild) {
  const std::uint64_t kind = wild ? prng.below(8) : 7;
  auto bits = static_cast<std::uint16_t>(prng.below(0x8000));
  bits = static_cast<std::uint16_t>((bits & 0x3FF) | (8 + (bits >> 13)) << 10);
  if (kind == 0) bits = 0;
  if (kind == 1) bits &= 0x3FF;
  if (kind == 2) bits = static_cast<std::uint16_t>((bits & 0x3FF) | (29 << 10));
  return static_cast<std::uint16_t>(bits | (wild && prng.below(2) == 0 ? 0x8000u : 0u));
}

}  // namespace

std::vector<DType> quantised_types() {
  std::vector<DType> types;
  for (const tensor::BlockScales& type : tensor::block_scales()) types.push_back(type.dtype);
  return types;
}

ops::HostTensor random_blocks(std::uint64_t seed, DType dtype, tensor::Shape shape, bool wild) {
  Prng prng(seed);
  const std::size_t block = tensor::block_bytes(dtype);
  const auto count =
      static_cast<std::size_t>(tensor::element_count(shape)) / tensor::block_elements(dtype);
  auto owner = std::make_shared<std::vector<std::byte>>(count * block);
  // Runs of the lowest byte: −128 in Q8_0, the least nibbles elsewhere.
  for (std::byte& byte : *owner)
    byte = wild && prng.below(16) == 0 ? std::byte{0x80} : static_cast<std::byte>(prng.below(256));
  const tensor::BlockScales* type = tensor::block_scales().data();
  while (type->dtype != dtype) ++type;
  for (std::size_t at = 0; at < owner->size(); at += block) {
    if (dtype == DType::kMXFP4)
      (*owner)[at] =
          static_cast<std::byte>(wild && prng.below(4) == 0 ? prng.below(3) : 115 + prng.below(16));
    if (wild && prng.below(8) == 0)
      std::fill(owner->begin() + static_cast<std::ptrdiff_t>(at),
                owner->begin() + static_cast<std::ptrdiff_t>(at + block),
                dtype == DType::kMXFP4 ? std::byte{0x77} : std::byte{0x80});
    for (const int offset : {type->scale, type->min}) {
      if (offset < 0) continue;
      const std::uint16_t half = random_half(prng, wild);
      std::memcpy(owner->data() + at + offset, &half, 2);
    }
  }
  return {{"random", dtype, std::move(shape)}, *owner, owner};
}

double Output::at(std::int64_t index) const {
  if (dtype == DType::kF32) {
    float value = 0;
    std::memcpy(&value, bytes.data() + index * 4, 4);
    return value;
  }
  std::uint16_t half = 0;
  std::memcpy(&half, bytes.data() + index * 2, 2);
  return tensor::bf16_to_f32(half);
}

std::vector<std::byte> Output::row(std::int64_t index) const {
  const std::int64_t size = cols * static_cast<std::int64_t>(tensor::dtype_bytes(dtype));
  return {bytes.begin() + index * size, bytes.begin() + (index + 1) * size};
}

Output output_of(ops::Step& step, const ops::Tensor& x) {
  const auto bytes = step.read(x);
  return {x.dtype, x.rows, x.cols, {bytes.begin(), bytes.end()}};
}

RowBatch::RowBatch(int rows, std::int64_t hidden, DType residual_type,
                   std::vector<std::byte> values)
    : residual(std::move(values)) {
  for (int i = 0; i < rows; ++i) {
    tokens.push_back(i % 5);
    positions.push_back(i);
  }
  row_start = {0, rows};
  kv_length = {rows};
  page_start = {0, 0};
  batch = {tokens, positions, row_start, kv_length,    page_start,
           {},     residual,  hidden,    residual_type};
}

std::vector<Variant> cpu_variants() {
  std::vector<Variant> variants;
  for (const char* isa : {"scalar_plain", "scalar", "neon", "neon_dotprod", "avx2", "avx512"})
    for (int threads : {1, 2}) {
      if (!backends::cpu::make_cpu_backend({.threads = threads, .isa = isa}).ok()) continue;
      variants.push_back({std::string(isa) + "/" + std::to_string(threads), isa, threads});
    }
  return variants;
}

std::unique_ptr<ops::Backend> make_variant(const Variant& variant) {
  return backends::cpu::make_cpu_backend({.threads = variant.threads, .isa = variant.isa}).value();
}

std::string compare_to_ref(const Output& got, const Output& ref, bool rounded_cache) {
  if (got.dtype != ref.dtype || got.rows != ref.rows || got.cols != ref.cols)
    return "shapes or types differ";
  const std::int64_t count = ref.rows * ref.cols;
  double squares = 0;
  for (std::int64_t i = 0; i < count; ++i) squares += ref.at(i) * ref.at(i);
  const double rms = std::sqrt(squares / static_cast<double>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const double delta = std::fabs(got.at(i) - ref.at(i));
    double allowed = 1e-5 * rms;
    if (ref.dtype == DType::kBF16 || rounded_cache) {
      int e = 0;
      std::frexp(std::max(std::fabs(ref.at(i)), rms), &e);
      allowed = std::ldexp(1.0, e - 8);
    }
    if (!(delta <= allowed))
      return "element " + std::to_string(i) + ": " + std::to_string(got.at(i)) + ", ref " +
             std::to_string(ref.at(i)) + ", allowed " + std::to_string(allowed);
  }
  return {};
}

std::unique_ptr<ops::Experts> load_random_experts(ops::Backend& backend,
                                                  const ExpertsSetup& setup) {
  const auto scale = [](std::int64_t in) { return 1.0 / std::sqrt(static_cast<double>(in)); };
  return backend
      .load_experts({setup.experts, setup.hidden, setup.intermediate},
                    [&](std::int64_t e) -> Result<ops::ExpertSource> {
                      const auto seed = static_cast<std::uint64_t>(100 + 3 * e);
                      const tensor::Shape in = {setup.intermediate, setup.hidden};
                      return ops::ExpertSource{
                          random_tensor(seed, setup.gate_up, in, scale(setup.hidden)),
                          random_tensor(seed + 1, setup.gate_up, in, scale(setup.hidden)),
                          random_tensor(seed + 2, setup.down, {setup.hidden, setup.intermediate},
                                        scale(setup.intermediate))};
                    })
      .value();
}

namespace {

struct AttentionWeights {
  ops::RopeTable rope;
  std::unique_ptr<ops::Vec> q_norm, k_norm, sinks;
};

AttentionWeights make_weights(ops::Backend& backend, const AttentionSetup& setup) {
  AttentionWeights w;
  const int pairs = setup.head_dim / 2 - 1;  // the last dimensions stay as they are
  for (int i = 0; i < pairs; ++i)
    w.rope.inv_freq.push_back(ops::exact_pow(10000.0, -static_cast<double>(i) / pairs));
  w.rope.factor = 1.0625;
  w.rope.interleaved = setup.interleaved;
  w.q_norm = backend.load_vec(random_tensor(11, DType::kF32, {setup.head_dim})).value();
  w.k_norm = backend.load_vec(random_tensor(12, DType::kBF16, {setup.head_dim})).value();
  w.sinks = backend.load_vec(random_tensor(13, DType::kF32, {setup.heads})).value();
  return w;
}

}  // namespace

std::vector<Output> run_attention(ops::Backend& backend, const AttentionSetup& setup,
                                  const Plan& plan) {
  const std::int64_t cols = (std::int64_t{setup.heads} + 2 * setup.kv_heads) * setup.head_dim;
  const AttentionWeights weights = make_weights(backend, setup);
  constexpr std::uint32_t kPages = 128, kLayers = 2;
  auto kv = backend
                .make_kv({kLayers, static_cast<std::uint32_t>(setup.kv_heads),
                          static_cast<std::uint32_t>(setup.head_dim), setup.store},
                         kPages)
                .value();
  kv->fill_with_nan();
  ops::AttentionSpec spec;
  spec.layer = 1;
  spec.heads = setup.heads;
  spec.kv_heads = setup.kv_heads;
  spec.head_dim = setup.head_dim;
  spec.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(setup.head_dim)));
  spec.eps = 1e-6f;
  spec.window = setup.window;
  if (setup.rope) spec.rope = &weights.rope;
  if (setup.norm) spec.q_norm = weights.q_norm.get();
  if (setup.norm) spec.k_norm = weights.k_norm.get();
  if (setup.sinks) spec.sinks = weights.sinks.get();

  std::vector<Output> results;
  std::vector<int> lengths;
  std::vector<std::vector<PageId>> tables;
  std::uint32_t taken = 0;
  for (const std::vector<Chunk>& chunks : plan) {
    std::vector<std::int32_t> positions, row_start{0}, kv_length, page_start{0};
    std::vector<PageId> pages;
    std::vector<std::byte> qkv;
    for (const Chunk& chunk : chunks) {
      const std::size_t s = static_cast<std::size_t>(chunk.sequence);
      if (results.size() <= s) {
        results.resize(s + 1);
        lengths.resize(s + 1);
        tables.resize(s + 1);
      }
      for (int i = 0; i < chunk.rows; ++i) {
        const int position = lengths[s]++;
        positions.push_back(position);
        // 37 is odd: the pages 1 … 127 come in scattered order, each once.
        if (position % ops::kPageTokens == 0) tables[s].push_back({taken++ * 37 % 127 + 1});
        const auto row = random_bytes(1000 * (s + 1) + static_cast<std::uint64_t>(position) * 7919,
                                      DType::kF32, cols);
        qkv.insert(qkv.end(), row.begin(), row.end());
      }
      row_start.push_back(static_cast<std::int32_t>(positions.size()));
      kv_length.push_back(lengths[s]);
      pages.insert(pages.end(), tables[s].begin(), tables[s].end());
      page_start.push_back(static_cast<std::int32_t>(pages.size()));
    }
    const ops::Batch batch{{},    positions, row_start, kv_length,  page_start,
                           pages, qkv,       cols,      DType::kF32};
    const auto step = backend.begin_step(kv.get(), batch);
    const Output out = output_of(*step, step->attention(spec, step->residual_in()));
    const std::int64_t row_bytes = out.cols * 4;
    for (std::size_t c = 0; c < chunks.size(); ++c) {
      Output& result = results[static_cast<std::size_t>(chunks[c].sequence)];
      result.cols = out.cols;
      result.rows += chunks[c].rows;
      result.bytes.insert(result.bytes.end(), out.bytes.begin() + row_start[c] * row_bytes,
                          out.bytes.begin() + row_start[c + 1] * row_bytes);
    }
  }
  return results;
}

}  // namespace mesh::conformance
