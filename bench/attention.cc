// Attention of the cpu backend alone: operations per second and thread, for prompts and for decode.

#include <CLI/CLI.hpp>
#include <numeric>

#include "backends/backends.h"
#include "base/random.h"
#include "bench/support/report.h"
#include "ops/exact_math.h"

namespace mesh::bench {
namespace {

struct Options {
  std::string isa;
  std::string kv_dtype = "bf16";
  int repeats = 9;
};

struct Shape {
  const char* name;
  int heads, kv_heads, head_dim;
};
constexpr Shape kShapes[] = {{"qwen3-0.6b", 16, 8, 128}, {"llama-3.2-1b", 32, 8, 64}};

// Seconds of this thread for the last `rows` of `length` positions, the cache being full of the
// ones before.
Result<double> attend(ops::Backend& backend, const Shape& shape, ops::DType store, int rows,
                      int length, int repeats) {
  const int cols = (shape.heads + 2 * shape.kv_heads) * shape.head_dim;
  const auto pages = static_cast<std::uint32_t>(length / ops::kPageTokens + 2);
  MESH_ASSIGN_OR_RETURN(const auto kv,
                        backend.make_kv({.layers = 1,
                                         .kv_heads = static_cast<std::uint32_t>(shape.kv_heads),
                                         .head_dim = static_cast<std::uint32_t>(shape.head_dim),
                                         .store = store},
                                        pages));
  ops::RopeTable rope;
  for (int i = 0; i < shape.head_dim / 2; ++i)
    rope.inv_freq.push_back(ops::exact_pow(1e6, -2.0 * i / shape.head_dim));
  ops::AttentionSpec spec;
  spec.heads = shape.heads;
  spec.kv_heads = shape.kv_heads;
  spec.head_dim = shape.head_dim;
  spec.scale = 0.1f;
  spec.rope = &rope;
  std::vector<PageId> table;
  for (std::uint32_t page = 1; page < pages; ++page) table.push_back({page});
  std::vector<double> seconds;
  // The first step fills the cache, in parts that a step may have; the others are measured.
  const auto step_of = [&](int first, int count) {
    std::vector<std::int32_t> positions(static_cast<std::size_t>(count));
    std::iota(positions.begin(), positions.end(), first);
    const std::vector<std::int32_t> row_start = {0, count}, kv_length = {first + count};
    const std::vector<std::int32_t> page_start = {0, static_cast<std::int32_t>(table.size())};
    Prng prng(static_cast<std::uint64_t>(first + 1));
    std::vector<float> qkv(static_cast<std::size_t>(count) * static_cast<std::size_t>(cols));
    for (float& x : qkv) x = static_cast<float>(prng.below(2001)) * 1e-3f - 1.0f;
    ops::Batch batch;
    batch.positions = positions;
    batch.row_start = row_start;
    batch.kv_length = kv_length;
    batch.page_start = page_start;
    batch.pages = table;
    batch.residual_in = std::as_bytes(std::span(qkv));
    batch.hidden = cols;
    batch.residual = ops::DType::kF32;
    const auto step = backend.begin_step(kv.get(), batch);
    const ops::Tensor in = step->residual_in();
    const double begin = thread_seconds();
    step->attention(spec, in);
    return thread_seconds() - begin;
  };
  for (int first = 0; first < length - rows; first += 512)
    step_of(first, std::min(512, length - rows - first));
  for (int i = 0; i < repeats; ++i) seconds.push_back(step_of(length - rows, rows));
  return percentile(seconds, 0.5);
}

Result<void> measure(const Options& options, Report& report) {
  backends::BackendOptions backend_options;
  backend_options.isa = options.isa;
  MESH_ASSIGN_OR_RETURN(const auto backend, backends::make_backend("cpu", backend_options));
  MESH_ASSIGN_OR_RETURN(const ops::DType store, ops::parse_kv_dtype(options.kv_dtype));
  for (const Shape& shape : kShapes)
    for (const auto& [rows, length] :
         {std::pair{512, 512}, std::pair{512, 2048}, std::pair{4, 2048}, std::pair{1, 2048},
          std::pair{1, 16384}}) {
      MESH_ASSIGN_OR_RETURN(const double seconds,
                            attend(*backend, shape, store, rows, length, options.repeats));
      // Row i sees length − rows + i + 1 positions: a product with K and one with V.
      const double pairs = rows * (length - rows) + 0.5 * rows * (rows + 1);
      const double operations = 4.0 * shape.heads * shape.head_dim * pairs;
      report.value(fmt::format("{}: {} rows at {}", shape.name, rows, length),
                   operations / seconds * 1e-9, "GFLOP/s");
    }
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("bench_attention: attention over the paged cache, one thread");
  ReportOptions report_options;
  Options options;
  add_options(app, report_options);
  app.add_option("--isa", options.isa, "avx512, avx2, neon_dotprod, neon or scalar");
  app.add_option("--kv-dtype", options.kv_dtype, "what the cache holds: f32, bf16 or q8")
      ->capture_default_str();
  app.add_option("--repeats", options.repeats)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  Report report("attention", report_options);
  if (const auto measured = measure(options, report); !measured.ok())
    return give_up(measured.error().message);
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
