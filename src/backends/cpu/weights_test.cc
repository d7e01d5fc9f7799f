#include "backends/cpu/weights.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "base/random.h"
#include "ops/host_weights.h"
#include "tensor/quantized.h"

namespace mesh::backends::cpu {
namespace {

using ops::DType;

// A matrix of seeded bytes that writes down how it is read.
struct Watched {
  Watched(DType dtype, std::int64_t rows, std::int64_t in, std::uint64_t seed)
      : info{"matrix", dtype, {rows, in}}, bytes(static_cast<std::size_t>(info.bytes())) {
    for (std::size_t i = 0; i + 8 <= bytes.size(); i += 8) {
      const std::uint64_t word = splitmix64(seed + i) & 0x3F3F3F3F3F3F3F3F;  // finite in all types
      std::memcpy(bytes.data() + i, &word, sizeof(word));
    }
    reads = std::vector<std::atomic<int>>(static_cast<std::size_t>(rows));
  }

  ops::MatrixSource source() {
    return {info,
            [this](std::int64_t first, std::span<std::byte> out) -> Result<void> {
              const std::size_t row = info.row_bytes();
              EXPECT_EQ(out.size() % row, 0u);
              const auto count = static_cast<std::int64_t>(out.size() / row);
              for (std::int64_t i = first; i < first + count; ++i)
                reads[static_cast<std::size_t>(i)].fetch_add(1);
              std::size_t most = longest;
              while (out.size() > most && !longest.compare_exchange_weak(most, out.size())) {
              }
              if (first <= fails_at && fails_at < first + count)
                return Error(Code::kUnavailable, "the disk is gone");
              std::memcpy(out.data(), bytes.data() + static_cast<std::size_t>(first) * row,
                          out.size());
              return {};
            },
            [this](std::span<const std::byte> rows) {
              shown.insert(shown.end(), rows.begin(), rows.end());
            }};
  }

  tensor::TensorInfo info;
  std::vector<std::byte> bytes, shown;
  std::vector<std::atomic<int>> reads;
  std::atomic<std::size_t> longest = 0;
  std::int64_t fails_at = -1;
};

// Every row is read once, through the window, and shown in its place.
void expect_read_once(const Watched& matrix) {
  EXPECT_TRUE(std::all_of(matrix.reads.begin(), matrix.reads.end(),
                          [](const std::atomic<int>& count) { return count == 1; }));
  EXPECT_LE(matrix.longest, ops::kReadWindowBytes);
  EXPECT_EQ(matrix.shown, matrix.bytes);
}

std::vector<float> row_of(const CpuLinear& linear, std::int64_t row) {
  std::vector<std::byte> blocks(linear.row_bytes());
  std::vector<float> values(static_cast<std::size_t>(linear.in()));
  linear.row(row, blocks.data(), values.data());
  return values;
}

std::vector<float> row_of(const Watched& matrix, std::int64_t row) {
  std::vector<float> values(static_cast<std::size_t>(matrix.info.shape[1]));
  ops::widen({matrix.info, matrix.bytes, nullptr}, row * matrix.info.shape[1], matrix.info.shape[1],
             values.data());
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(CpuLoad, ReadsEachRowOnceThroughAWindow) {
  for (const DType dtype :
       {DType::kF32, DType::kBF16, DType::kF16, DType::kQ4_0, DType::kQ8_0, DType::kQ6_K})
    for (const int threads : {1, 3}) {
      SCOPED_TRACE(std::string(tensor::dtype_name(dtype)) + " " + std::to_string(threads));
      const auto backend = make_cpu_backend({.threads = threads, .isa = ""}).value();
      // Neither matrix is whole groups, panels or windows.
      Watched first(dtype, 2050, 1024, 1), second(dtype, 37, 1024, 2);
      const ops::LinearSource sources[] = {{first.source(), std::nullopt},
                                           {second.source(), std::nullopt}};
      const auto loaded = backend->load_linear(sources);
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      expect_read_once(first);
      expect_read_once(second);
      const auto& linear = static_cast<const CpuLinear&>(**loaded);
      for (std::int64_t row = 0; row < 2087; ++row)
        ASSERT_TRUE(same_bits(row_of(linear, row),
                              row < 2050 ? row_of(first, row) : row_of(second, row - 2050)))
            << row;
    }
}

TEST(CpuLoad, MatricesOfSeveralTypesFollowOneAnother) {
  const auto backend = make_cpu_backend({.threads = 2, .isa = ""}).value();
  Watched a(DType::kQ4_0, 700, 512, 3), b(DType::kBF16, 1500, 512, 4), c(DType::kQ4_0, 9, 512, 5);
  const ops::LinearSource sources[] = {
      {a.source(), std::nullopt}, {b.source(), std::nullopt}, {c.source(), std::nullopt}};
  const auto loaded = backend->load_linear(sources);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const auto& linear = static_cast<const CpuLinear&>(**loaded);
  for (const Watched* matrix : {&a, &b, &c}) expect_read_once(*matrix);
  EXPECT_TRUE(same_bits(row_of(linear, 699), row_of(a, 699)));
  EXPECT_TRUE(same_bits(row_of(linear, 700), row_of(b, 0)));
  EXPECT_TRUE(same_bits(row_of(linear, 2208), row_of(c, 8)));
}

TEST(CpuLoad, GivesTheErrorOfAReadAnywhere) {
  const auto backend = make_cpu_backend({.threads = 2, .isa = ""}).value();
  for (const std::int64_t row : {0, 777, 2999}) {
    Watched matrix(DType::kBF16, 3000, 1024, 6);
    matrix.fails_at = row;
    const ops::LinearSource source{matrix.source(), std::nullopt};
    const auto loaded = backend->load_linear({&source, 1});
    ASSERT_FALSE(loaded.ok()) << row;
    EXPECT_EQ(loaded.error().code, Code::kUnavailable);
    EXPECT_EQ(loaded.error().message, "the disk is gone");
  }
}

TEST(ReadWindow, IsWholeUnitsAndNeverNothing) {
  EXPECT_EQ(ops::window_rows(1024, 16, 1 << 20), 1024);
  EXPECT_EQ(ops::window_rows(1000, 64, 1 << 20), 1024);
  EXPECT_EQ(ops::window_rows(ops::kReadWindowBytes * 2, 16, 1 << 20), 16);
  EXPECT_EQ(ops::window_rows(64, 16, 17), 32);
}

}  // namespace
}  // namespace mesh::backends::cpu
