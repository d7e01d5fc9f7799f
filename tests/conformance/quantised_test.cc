// Products with quantised weights against their definition, written plainly here: equal by bits on
// every instruction set and for every number of rows. docs/numerics.md, "Products".
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "backends/cpu/isa.h"
#include "backends/cpu/quant.h"
#include "backends/ref/ref_backend.h"
#include "base/random.h"
#include "harness.h"
#include "tensor/quantized.h"

namespace mesh::conformance {
namespace {

constexpr DType kTypes32[] = {DType::kQ4_0, DType::kQ4_1,   DType::kQ5_0, DType::kQ5_1,
                              DType::kQ8_0, DType::kIQ4_NL, DType::kMXFP4};
constexpr int kRows = 40;

float half_at(const std::byte* p) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof(bits));
  return tensor::f16_to_f32(bits);
}

// A block of 32 weights as the class reads it: integers, their scale, and a minimum.
struct PlainBlock {
  float d = 0, m = 0;
  bool minimum = false;
  int q[32] = {};
};

PlainBlock plain_block(DType type, const std::byte* p) {
  PlainBlock block;
  const auto byte = [p](int i) { return static_cast<int>(p[i]); };
  if (type == DType::kQ8_0) {
    block.d = half_at(p);
    for (int k = 0; k < 32; ++k) block.q[k] = static_cast<std::int8_t>(byte(2 + k));
    return block;
  }
  const bool five = type == DType::kQ5_0 || type == DType::kQ5_1;
  block.minimum = type == DType::kQ4_1 || type == DType::kQ5_1;
  const int bits = type == DType::kMXFP4 ? 1 : block.minimum ? 4 : 2;
  const int quants = bits + (five ? 4 : 0);
  block.d = type == DType::kMXFP4 ? tensor::e8m0_to_f32(static_cast<std::uint8_t>(p[0])) * 0.5f
                                  : half_at(p);
  if (block.minimum) block.m = half_at(p + 2);
  for (int k = 0; k < 32; ++k) {
    int q = k < 16 ? byte(quants + k) & 15 : byte(quants + k - 16) >> 4;
    if (five) q |= ((byte(bits + k / 8) >> (k % 8)) & 1) << 4;
    if (type == DType::kQ4_0) q -= 8;
    if (type == DType::kQ5_0) q -= 16;
    if (type == DType::kIQ4_NL) q = tensor::kNonlinear4[q];
    if (type == DType::kMXFP4) q = tensor::kTwiceE2M1[q];
    block.q[k] = q;
  }
  return block;
}

struct PlainActivation {
  float d = 0;
  int q[32] = {}, sum = 0;
};
PlainActivation round_plainly(const float* x) {
  PlainActivation act;
  float a = 0;
  for (int k = 0; k < 32; ++k) a = std::fmax(a, std::fabs(x[k]));
  if (a < 0x1p-100f) return act;
  act.d = a / 127.0f;
  const float inverse = 127.0f / a;
  for (int k = 0; k < 32; ++k) {
    act.q[k] = static_cast<int>(std::nearbyint(x[k] * inverse));
    act.sum += act.q[k];
  }
  return act;
}

// y = W·x of one output.
float plain_product(DType type, const std::byte* row, const float* x, std::int64_t in) {
  float acc = 0;
  for (std::int64_t b = 0; b < in / 32; ++b) {
    const PlainBlock w =
        plain_block(type, row + static_cast<std::size_t>(b) * tensor::block_bytes(type));
    const PlainActivation act = round_plainly(x + 32 * b);
    int dot = 0;
    for (int k = 0; k < 32; ++k) dot += w.q[k] * act.q[k];
    const float scale = w.d * act.d;
    acc = std::fma(static_cast<float>(dot), scale, acc);
    if (!w.minimum) continue;
    const float minimum = w.m * act.d;
    acc = std::fma(static_cast<float>(act.sum), minimum, acc);
  }
  return acc;
}

// Rows of magnitudes that differ, with columns of zeros, of denormals, and all alike.
std::vector<float> awkward_rows(Prng& prng, int rows, std::int64_t cols) {
  std::vector<float> x(static_cast<std::size_t>(rows * cols));
  for (std::size_t b = 0; b < x.size(); b += 32) {
    const std::uint64_t kind = prng.below(12);
    const float scale = kind == 0   ? 0.0f
                        : kind == 1 ? 0x1p-140f
                        : kind == 2 ? 0x1p-100f
                        : kind == 3 ? 1e15f
                                    : 1.0f;
    for (std::size_t k = b; k < b + 32; ++k) {
      x[k] = static_cast<float>(prng.range(-1, 1)) * scale;
      if (kind == 4) x[k] = -0.75f;  // every q is −127
      if (kind == 5) x[k] = k % 2 == 0 ? 1.5f : -0.0f;
      if (kind == 6) x[k] = static_cast<float>(prng.below(255)) - 127.0f;  // ties of rounding
      if (kind == 6 && k == b) x[k] = 254.0f;
    }
  }
  return x;
}

std::vector<std::byte> bytes_of(const float* x, std::int64_t count) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * 4);
  std::memcpy(bytes.data(), x, bytes.size());
  return bytes;
}

Output product(ops::Backend& backend, const ops::Linear& w, const float* x, int rows) {
  const RowBatch batch(rows, w.in(), DType::kF32, bytes_of(x, rows * w.in()));
  const auto step = backend.begin_step(nullptr, batch.batch);
  return output_of(*step, step->linear(step->residual_in(), w));
}

std::vector<std::pair<std::string, std::unique_ptr<ops::Backend>>> all_variants() {
  std::vector<std::pair<std::string, std::unique_ptr<ops::Backend>>> variants;
  for (const Variant& variant : cpu_variants())
    variants.emplace_back(variant.name, make_variant(variant));
  return variants;
}

void compare_bits(const Output& got, const std::vector<float>& want, const std::string& where) {
  for (std::int64_t i = 0; i < got.rows * got.cols; ++i) {
    const float y = static_cast<float>(got.at(i));
    ASSERT_EQ(std::memcmp(&y, &want[static_cast<std::size_t>(i)], 4), 0)
        << where << ", row " << i / got.cols << " of " << got.rows << ", output " << i % got.cols
        << std::hexfloat << ": " << y << ", by definition " << want[static_cast<std::size_t>(i)];
  }
}

TEST(Quantised, ProductsAreTheirDefinitionOnEveryVariantAndForEveryNumberOfRows) {
  const auto variants = all_variants();
  for (const DType type : kTypes32)
    for (const auto& [in, out] : {std::pair{32, 1}, std::pair{96, 16}, std::pair{2080, 37},
                                  std::pair{1024, 34}, std::pair{64, 48}}) {
      const std::uint64_t seed = 1000 + static_cast<std::uint64_t>(in * 64 + out);
      Prng prng(seed);
      const ops::LinearSource source{random_blocks(seed, type, {out, in}, true),
                                     random_tensor(2, DType::kF32, {out})};
      const std::vector<float> x = awkward_rows(prng, kRows, in);
      std::vector<float> want(static_cast<std::size_t>(kRows * out));
      for (int row = 0; row < kRows; ++row)
        for (int o = 0; o < out; ++o) {
          float bias = 0;
          std::memcpy(&bias, source.bias->bytes.data() + 4 * o, 4);
          const std::byte* w = source.weight.bytes.data() +
                               static_cast<std::size_t>(o * in / 32) * tensor::block_bytes(type);
          want[static_cast<std::size_t>(row * out + o)] =
              plain_product(type, w, x.data() + row * in, in) + bias;
        }
      for (const auto& [name, backend] : variants) {
        const auto w = backend->load_linear({&source, 1}).value();
        for (int rows = 1; rows <= kRows; rows += in > 1000 && rows > 20 ? 5 : 1) {
          compare_bits(product(*backend, *w, x.data(), rows), want,
                       std::string(tensor::dtype_name(type)) + " [" + std::to_string(out) + ", " +
                           std::to_string(in) + "] on " + name + ", seed " + std::to_string(seed));
          if (HasFatalFailure()) return;
        }
      }
    }
}

// What the rounding of x may cost: half a step of a/127 for every element.
TEST(Quantised, ProductsAreNearThoseOfTheReference) {
  const auto ref = backends::ref::make_ref_backend();
  const auto variants = all_variants();
  for (const DType type : quantised_types()) {
    constexpr std::int64_t kIn = 768, kOut = 21;
    const ops::LinearSource source{random_blocks(3, type, {kOut, kIn}, false), std::nullopt};
    std::vector<float> weights(kOut * kIn), x(7 * kIn);
    tensor::dequantize(type, source.weight.bytes.data(), kOut * kIn, weights.data());
    Prng prng(4);
    for (float& value : x) value = static_cast<float>(prng.range(-2, 2));
    const std::int64_t length = static_cast<std::int64_t>(tensor::block_elements(type));
    const Output want = product(*ref, *ref->load_linear({&source, 1}).value(), x.data(), 7);
    for (const auto& [name, backend] : variants) {
      const Output got =
          product(*backend, *backend->load_linear({&source, 1}).value(), x.data(), 7);
      for (std::int64_t i = 0; i < 7 * kOut; ++i) {
        double allowed = 0, largest = 0;
        for (std::int64_t k = 0; k < kIn; ++k) {
          const float* columns = x.data() + i / kOut * kIn + k / length * length;
          if (k % length == 0) largest = 0;
          if (k % length == 0)
            for (std::int64_t c = 0; c < length; ++c)
              largest = std::max(largest, std::fabs(static_cast<double>(columns[c])));
          // Half a step, and f32 sums of terms that may be larger than the weight itself.
          allowed += largest * (1.0 / 254 + 1e-5) *
                         std::fabs(static_cast<double>(
                             weights[static_cast<std::size_t>(i % kOut * kIn + k)])) +
                     largest * 1e-5;
        }
        ASSERT_NEAR(got.at(i), want.at(i), allowed)
            << tensor::dtype_name(type) << " on " << name << ", element " << i;
      }
    }
  }
}

TEST(Quantised, PartsOfAFusedMatrixAreTheMatricesAlone) {
  constexpr std::int64_t kIn = 768;
  const std::vector<ops::LinearSource> sources{
      {random_tensor(1, DType::kBF16, {70, kIn}), random_tensor(2, DType::kF32, {70})},
      {random_blocks(3, DType::kQ8_0, {33, kIn}, false), std::nullopt},
      {random_blocks(4, DType::kQ4_0, {9, kIn}, false), random_tensor(5, DType::kBF16, {9})},
      {random_blocks(6, DType::kQ4_0, {30, kIn}, false), std::nullopt},
      {random_blocks(7, DType::kQ6_K, {17, kIn}, false), std::nullopt},
      {random_tensor(8, DType::kF32, {3, kIn}), std::nullopt}};
  const auto x = random_bytes(9, DType::kF32, 11 * kIn);
  for (const auto& [name, backend] : all_variants()) {
    const auto fused = backend->load_linear(sources).value();
    for (const int rows : {1, 11}) {
      const RowBatch batch(rows, kIn, DType::kF32, {x.begin(), x.begin() + rows * kIn * 4});
      const auto step = backend->begin_step(nullptr, batch.batch);
      const ops::Tensor in = step->residual_in();
      const Output all = output_of(*step, step->linear(in, *fused));
      std::int64_t first = 0;
      for (const ops::LinearSource& source : sources) {
        const auto alone = backend->load_linear({&source, 1}).value();
        const Output got = output_of(*step, step->linear(in, *alone));
        for (std::int64_t row = 0; row < rows; ++row)
          for (std::int64_t o = 0; o < got.cols; ++o)
            ASSERT_EQ(got.at(row * got.cols + o), all.at(row * all.cols + first + o))
                << name << ", rows " << rows << ", output " << first + o;
        first += got.cols;
      }
    }
  }
}

TEST(Quantised, AnEmbeddingRowIsTheStoredRowExactly) {
  constexpr std::int64_t kIn = 768, kOut = 69;
  const auto variants = all_variants();
  for (const DType type : quantised_types()) {
    const ops::LinearSource source{random_blocks(5, type, {kOut, kIn}, true), std::nullopt};
    std::vector<float> weights(kOut * kIn);
    tensor::dequantize(type, source.weight.bytes.data(), kOut * kIn, weights.data());
    for (const auto& [name, backend] : variants) {
      const auto w = backend->load_linear({&source, 1}).value();
      RowBatch batch(6, kIn, DType::kF32, {});
      batch.tokens = {0, 68, 63, 64, 0, 17};
      batch.batch.tokens = batch.tokens;
      const auto step = backend->begin_step(nullptr, batch.batch);
      const Output got = output_of(*step, step->embed(*w));
      for (std::int64_t row = 0; row < 6; ++row)
        ASSERT_EQ(std::memcmp(got.row(row).data(),
                              weights.data() + batch.tokens[static_cast<std::size_t>(row)] * kIn,
                              kIn * 4),
                  0)
            << tensor::dtype_name(type) << " on " << name << ", row " << row;
    }
  }
}

// Rounded activations are kept for further products of a tensor; its memory may change meanwhile.
TEST(Quantised, KeptActivationsAreThoseOfTheTensorAtHand) {
  constexpr std::int64_t kIn = 288;
  const auto ones_source = random_tensor(1, DType::kF32, {kIn});
  const ops::LinearSource source{random_blocks(2, DType::kQ8_0, {kIn, kIn}, false), std::nullopt};
  for (const auto& [name, backend] : all_variants()) {
    const auto w = backend->load_linear({&source, 1}).value();
    const auto norm = backend->load_vec(ones_source).value();
    for (const int rows : {1, 5}) {
      const RowBatch batch(rows, kIn, DType::kF32, random_bytes(3, DType::kF32, rows * kIn));
      const auto step = backend->begin_step(nullptr, batch.batch);
      ops::Tensor r = step->residual_in();
      auto fresh = [&](const ops::Tensor& x) {  // the product in a step of its own
        const auto bytes = step->read(x);
        const RowBatch copy(rows, kIn, DType::kF32, {bytes.begin(), bytes.end()});
        const auto other = backend->begin_step(nullptr, copy.batch);
        return output_of(*other, other->linear(other->residual_in(), *w));
      };
      for (int i = 0; i < 4; ++i) {
        EXPECT_TRUE(output_of(*step, step->linear(r, *w)) == fresh(r)) << name;
        step->add_residual(r, step->rms_norm(step->linear(r, *w), *norm, 1e-6f));
        EXPECT_TRUE(output_of(*step, step->linear(r, *w)) == fresh(r)) << name;
        // Freed at once: the next tensor of the size takes its memory.
        for (int same = 0; same < 2; ++same) {
          Output got;
          {
            const ops::Tensor x = step->rms_norm(r, *norm, same == 0 ? 1e-6f : 1.0f);
            got = output_of(*step, step->linear(x, *w));
          }
          const ops::Tensor x = step->rms_norm(r, *norm, same == 0 ? 1e-6f : 1.0f);
          EXPECT_TRUE(got == fresh(x)) << name;
        }
      }
    }
  }
}

TEST(Quantised, WhatIsNotFiniteStaysSo) {
  constexpr std::int64_t kIn = 768;
  const auto variants = all_variants();
  for (const DType type : {DType::kQ4_0, DType::kQ8_0, DType::kMXFP4}) {
    const ops::LinearSource source{random_blocks(2, type, {5, kIn}, false), std::nullopt};
    for (const float bad : {std::numeric_limits<float>::infinity(), -std::nanf(""),
                            std::numeric_limits<float>::quiet_NaN()})
      for (const auto& [name, backend] : variants)
        for (const int rows : {1, 6}) {
          std::vector<float> x(static_cast<std::size_t>(rows) * kIn, 1.0f);
          x[static_cast<std::size_t>(rows - 1) * kIn + 333] = bad;
          const auto w = backend->load_linear({&source, 1}).value();
          const Output got = product(*backend, *w, x.data(), rows);
          for (std::int64_t i = 0; i < rows * 5; ++i)
            EXPECT_EQ(std::isfinite(got.at(i)), i < (rows - 1) * 5) << name;
        }
  }
}

TEST(Quantised, PackingLosesNothing) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Prng prng(seed);
    for (int type = 0; type < backends::cpu::kQuant32Types; ++type) {
      const DType dtype = kTypes32[type];
      const std::int64_t in = 32 * (1 + static_cast<std::int64_t>(prng.below(9)));
      const std::size_t bytes = static_cast<std::size_t>(in) / 32 * tensor::block_bytes(dtype);
      const int present = 1 + static_cast<int>(prng.below(16));
      const ops::HostTensor rows = random_blocks(seed, dtype, {present, in}, true);
      const std::byte* pointers[16] = {};
      for (int o = 0; o < present; ++o)
        pointers[o] = rows.bytes.data() + static_cast<std::size_t>(o) * bytes;
      for (const bool isa_signed : {false, true}) {
        std::vector<std::byte> group(backends::cpu::quant_group_bytes(type, in), std::byte{0xA5});
        EXPECT_EQ(group.size() % 64, 0u);
        backends::cpu::quant_pack_group(type, pointers, in, isa_signed, group.data());
        std::vector<std::byte> back(bytes);
        for (int o = 0; o < present; ++o) {
          backends::cpu::quant_unpack_row(type, group.data(), o, in, isa_signed, back.data());
          ASSERT_EQ(std::memcmp(back.data(), pointers[o], bytes), 0)
              << tensor::dtype_name(dtype) << ", seed " << seed << ", output " << o;
        }
      }
    }
  }
}

}  // namespace
}  // namespace mesh::conformance
