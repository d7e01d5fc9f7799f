#include <gtest/gtest.h>

#include "base/random.h"
#include "harness.h"

namespace mesh::conformance {
namespace {

Plan in_chunks(int total, const std::vector<int>& sizes) {
  Plan plan;
  for (std::size_t i = 0; total > 0; ++i) {
    const int rows = std::min(total, sizes[i % sizes.size()]);
    plan.push_back({{0, rows}});
    total -= rows;
  }
  return plan;
}

std::vector<std::pair<std::string, std::unique_ptr<ops::Backend>>> fast_variants() {
  std::vector<std::pair<std::string, std::unique_ptr<ops::Backend>>> out;
  for (const Variant& v : cpu_variants())
    if (v.isa != "scalar_plain") out.emplace_back(v.name, make_variant(v));
  return out;
}

void expect_same_rows(const Output& whole, const Output& got, const std::string& what) {
  ASSERT_EQ(got.rows, whole.rows) << what;
  for (std::int64_t row = 0; row < whole.rows; ++row) {
    for (std::int64_t i = row * whole.cols; i < (row + 1) * whole.cols; ++i)
      ASSERT_EQ(got.at(i), got.at(i)) << what << ": NaN from an unwritten slot at position " << row;
    ASSERT_TRUE(got.row(row) == whole.row(row))
        << what << ": position " << row << " differs from the whole prefill";
  }
}

const AttentionSetup kSetups[] = {
    {.heads = 2, .kv_heads = 1, .head_dim = 16, .store = DType::kBF16, .rope = true, .norm = true},
    {.heads = 1,
     .kv_heads = 1,
     .head_dim = 20,
     .store = DType::kF32,
     .rope = true,
     .sinks = true,
     .window = 100},
    {.heads = 2, .kv_heads = 1, .head_dim = 40, .store = DType::kI8, .rope = true, .window = 300},
};

TEST(Exactness, ChunkedPrefillEqualsWholePrefill) {
  // Decode and small chunks across the borders of pages (64) and segments (512, 1024).
  const std::vector<std::vector<int>> cuts{{511, 1, 1, 1, 508, 1, 1, 1, 1, 1, 1},
                                           {64},
                                           {7, 1, 9, 130},
                                           {512},
                                           {513, 511},
                                           {100, 1, 200, 8, 9}};
  for (const auto& [name, backend] : fast_variants())
    for (const AttentionSetup& setup : kSetups) {
      const Output whole = run_attention(*backend, setup, in_chunks(1030, {1030}))[0];
      for (const auto& cut : cuts)
        expect_same_rows(whole, run_attention(*backend, setup, in_chunks(1030, cut))[0],
                         name + " chunk " + std::to_string(cut[0]));
    }
}

TEST(Exactness, ASequenceAloneEqualsTheSequenceInAnyBatch) {
  const std::uint64_t seed = 77;
  for (const auto& [name, backend] : fast_variants())
    for (const AttentionSetup& setup : kSetups) {
      const int lengths[] = {530, 65, 3, 200};
      Prng prng(seed);
      Plan plan;
      std::vector<int> left(std::begin(lengths), std::end(lengths));
      while (true) {
        std::vector<Chunk> chunks;
        for (int s = 0; s < 4; ++s) {
          if (left[static_cast<std::size_t>(s)] == 0 || prng.below(4) == 0) continue;
          const int rows =
              std::min(left[static_cast<std::size_t>(s)],
                       1 + static_cast<int>(prng.below(3) == 0 ? prng.below(200) : prng.below(4)));
          left[static_cast<std::size_t>(s)] -= rows;
          chunks.push_back({s, rows});
        }
        if (!chunks.empty()) plan.push_back(chunks);
        if (left == std::vector<int>(4, 0)) break;
      }
      const auto together = run_attention(*backend, setup, plan);
      for (int s = 0; s < 4; ++s) {
        Plan alone;
        for (int before = 0; before < s; ++before) alone.push_back({{before, 1}});
        alone.push_back({{s, lengths[s]}});
        expect_same_rows(run_attention(*backend, setup, alone)[static_cast<std::size_t>(s)],
                         together[static_cast<std::size_t>(s)],
                         name + " seed " + std::to_string(seed) + " sequence " + std::to_string(s));
      }
    }
}

}  // namespace
}  // namespace mesh::conformance
