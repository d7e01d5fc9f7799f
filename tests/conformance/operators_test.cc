#include <gtest/gtest.h>

#include <map>

#include "backends/backends.h"
#include "backends/ref/ref_backend.h"
#include "harness.h"

namespace mesh::conformance {
namespace {

// Every case on every variant: values against ref, bits against the first variant.
void check_table(const std::vector<Case>& cases) {
  const auto ref = backends::ref::make_ref_backend();
  std::vector<std::pair<std::string, std::unique_ptr<ops::Backend>>> variants;
  for (const Variant& variant : cpu_variants())
    variants.emplace_back(variant.name, make_variant(variant));
  ASSERT_GE(variants.size(), 4u);
  for (const Case& c : cases) {
    const Output expected = c.run(*ref);
    Output first;
    for (const auto& [name, backend] : variants) {
      const Output got = c.run(*backend);
      EXPECT_EQ(compare_to_ref(got, expected, c.rounded_cache), "") << c.name << " on " << name;
      if (first.rows == 0) first = got;
      EXPECT_TRUE(got == first) << c.name << ": bits of " << name << " differ from "
                                << variants[0].first;
    }
  }
}

TEST(Conformance, OperatorsAgreeWithRefAndBitForBitAmongThemselves) {
  check_table(operator_cases());
}
TEST(Conformance, AttentionAgreesWithRefAndBitForBitAmongItself) {
  check_table(attention_cases());
}

// A router [5, 83] of zeros.
std::span<const ops::LinearSource> zero_sources() {
  static const std::vector<std::byte> zeros(5 * 83 * 4);
  static const ops::LinearSource source{
      tensor::HostTensor{{"zeros", DType::kF32, {5, 83}}, zeros, nullptr}, std::nullopt};
  return {&source, 1};
}

constexpr int kBatches[] = {1, 2, 3, 7, 8, 9, 16, 17, 64, 513};

// Runs `op` on the first `n` of 513 rows for every batch size and compares each row with the row
// alone.
void check_rows(
    const char* name, std::int64_t cols,
    const std::function<ops::Tensor(ops::Backend&, ops::Step&, const ops::Tensor&)>& op) {
  const auto values = random_bytes(21, DType::kF32, 513 * cols);
  for (const Variant& variant : cpu_variants()) {
    if (variant.isa == "scalar_plain") continue;  // the same text as scalar, and slow
    const auto backend = make_variant(variant);
    auto run = [&](std::int64_t row, int rows) {
      const auto begin = values.begin() + row * cols * 4;
      const RowBatch batch(rows, cols, DType::kF32, {begin, begin + rows * cols * 4});
      const auto step = backend->begin_step(nullptr, batch.batch);
      return output_of(*step, op(*backend, *step, step->residual_in()));
    };
    std::vector<std::vector<std::byte>> alone;
    for (int row = 0; row < 513; ++row) alone.push_back(run(row, 1).bytes);
    for (const int rows : kBatches) {
      const Output got = run(0, rows);
      for (int row = 0; row < rows; ++row)
        ASSERT_TRUE(got.row(row) == alone[static_cast<std::size_t>(row)])
            << name << " on " << variant.name << ": row " << row << " of " << rows
            << " differs from the row alone";
    }
  }
}

TEST(Exactness, ARowOfAProductAloneEqualsTheRowInAnyBatch) {
  for (const DType weight : {DType::kF32, DType::kBF16, DType::kF16}) {
    const ops::LinearSource source{random_tensor(22, weight, {83, 611}),
                                   random_tensor(23, weight, {83})};
    std::map<ops::Backend*, std::unique_ptr<ops::Linear>> loaded;
    check_rows("linear", 611, [&](ops::Backend& backend, ops::Step& step, const ops::Tensor& x) {
      auto& w = loaded[&backend];
      if (!w || w->out() != 83) w = backend.load_linear({&source, 1}).value();
      return step.linear(x, *w);
    });
  }
}

TEST(Exactness, ARowOfARowOperatorAloneEqualsTheRowInAnyBatch) {
  check_rows("swiglu", 90,
             [](ops::Backend&, ops::Step& step, const ops::Tensor& x) { return step.swiglu(x); });
  check_rows("rms_norm", 83, [](ops::Backend& backend, ops::Step& step, const ops::Tensor& x) {
    const auto w = backend.load_vec(random_tensor(24, DType::kF32, {83})).value();
    return step.rms_norm(x, *w, 1e-6f);
  });
}

// The router's logits come from x itself, so that rows choose different experts.
TEST(Exactness, ARowOfExpertsAloneEqualsTheRowInAnyBatch) {
  constexpr ExpertsSetup kSetup{.experts = 11, .hidden = 83, .intermediate = 40};
  struct Loaded {
    std::unique_ptr<ops::Experts> experts;
    std::unique_ptr<ops::Linear> router, gate;
  };
  Loaded w;
  const ops::Backend* owner = nullptr;
  check_rows("experts", 83, [&](ops::Backend& backend, ops::Step& step, const ops::Tensor& x) {
    if (owner != &backend || !w.experts) {
      const auto load = [&](std::uint64_t seed, std::int64_t out) {
        const ops::LinearSource source{random_tensor(seed, DType::kF32, {out, 83}, 0.3),
                                       std::nullopt};
        return backend.load_linear({&source, 1}).value();
      };
      owner = &backend;
      w = {load_random_experts(backend, kSetup), load(25, 11), load(26, 1)};
    }
    ops::Tensor y =
        step.experts(x, step.linear(x, *w.router), *w.experts, {.top_k = 3, .normalise = true});
    step.add_gated(y, x, step.linear(x, *w.gate));
    return y;
  });
}

// Rows that all choose the same experts are one product; alone each is another kernel.
TEST(Exactness, AllRowsToOneExpertEqualEachRowAlone) {
  constexpr ExpertsSetup kSetup{.experts = 5, .hidden = 83, .intermediate = 40};
  std::unique_ptr<ops::Experts> experts;
  const ops::Backend* owner = nullptr;
  check_rows("one expert", 83, [&](ops::Backend& backend, ops::Step& step, const ops::Tensor& x) {
    if (owner != &backend || !experts) {
      owner = &backend;
      experts = load_random_experts(backend, kSetup);
    }
    // Every logit is 0: the lowest ids win.
    const auto zeros = backend.load_linear(zero_sources()).value();
    return step.experts(x, step.linear(x, *zeros), *experts, {.top_k = 2});
  });
}

TEST(Experts, RefuseWhatDoesNotFit) {
  for (const char* name : {"cpu", "ref"}) {
    const auto backend = backends::make_backend(name, {}).value();
    int asked = 0;
    const auto load = [&](const ops::ExpertsShape& shape, std::int64_t up_rows, DType down_type) {
      asked = 0;
      return backend->load_experts(shape, [&](std::int64_t e) -> Result<ops::ExpertSource> {
        EXPECT_EQ(e, asked++);
        if (e == 2) return Error(Code::kCancelled, "stopped");
        ops::ExpertSource source{random_tensor(1, DType::kBF16, {6, 8}),
                                 random_tensor(2, DType::kBF16, {up_rows, 8}),
                                 random_tensor(3, DType::kBF16, {8, 6})};
        source.down.info.dtype = down_type;
        return source;
      });
    };
    EXPECT_EQ(load({2, 8, 6}, 6, DType::kBF16).value()->experts(), 2) << name;
    EXPECT_EQ(asked, 2);
    EXPECT_EQ(load({3, 8, 6}, 6, DType::kBF16).error().code, Code::kCancelled) << name;
    EXPECT_EQ(load({2, 8, 6}, 7, DType::kBF16).error().code, Code::kInvalidArgument) << name;
    EXPECT_EQ(asked, 1);
    EXPECT_EQ(load({2, 8, 6}, 6, DType::kI32).error().code, Code::kUnsupported) << name;
    EXPECT_EQ(load({2, 8, 5}, 6, DType::kBF16).error().code, Code::kInvalidArgument) << name;
    EXPECT_EQ(load({0, 8, 6}, 6, DType::kBF16).error().code, Code::kInvalidArgument) << name;
  }
}

}  // namespace
}  // namespace mesh::conformance
