// Products with weights in blocks of 256 on one thread: how close one row comes to the read
// bandwidth and many rows to the rate of the dot-product instruction, both measured in the same
// run. Times are the thread's own processor time, so that other work on the machine counts less.

#include <fmt/format.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/isa.h"
#include "backends/cpu/memory.h"
#include "backends/cpu/quant256.h"
#include "backends/cpu/quant_pack256.h"
#include "bench/support/report.h"

#if defined(MESH_CPU_X86)
#include <immintrin.h>
#endif

namespace mesh::bench {
namespace {

using backends::cpu::Act256;
using backends::cpu::kActRows;
using backends::cpu::QuantArgs;
using backends::cpu::QuantKernels;

constexpr const char* kNames[] = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"};

struct Options {
  std::string isa, type;
  std::int64_t out = 3072, in = 1024;
  std::vector<int> rows = {1, 4, 8, 16, 512};
  int repeats = 7;
};

double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
// Median of work / time, in 10⁹ per second; a first run warms up.
double rate(double work, int repeats, const std::function<void()>& run) {
  std::vector<double> rates;
  run();
  for (int i = 0; i < repeats; ++i) {
    const double start = thread_seconds();
    run();
    rates.push_back(work / (thread_seconds() - start) / 1e9);
  }
  return percentile(rates, 0.5);
}

// Limits of the machine; 0 where this program has no way to measure them.
#if defined(MESH_CPU_X86)
__attribute__((target("avx512f,avx512vnni"))) void dot_products(long count) {
  __m512i sums[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(2);
  for (long n = 0; n < count; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
      asm volatile("" : "+v"(sums[i]));
    }
  }
}
double dot_rate(int repeats) {
  if (!__builtin_cpu_supports("avx512vnni")) return 0;
  constexpr long kCount = 2'000'000;
  return rate(16.0 * 128 * kCount, repeats, [] { dot_products(kCount); });
}
__attribute__((target("avx2"))) void read_all(const std::byte* p, std::size_t bytes) {
  __m256i sums[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sums[i] = _mm256_setzero_si256();
  for (std::size_t at = 0; at + 256 <= bytes; at += 256) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      sums[i] = _mm256_add_epi32(
          sums[i], _mm256_load_si256(reinterpret_cast<const __m256i*>(p + at + 32 * i)));
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) asm volatile("" : "+x"(sums[i]));
}
double read_rate(const backends::cpu::Block& memory, int repeats) {
  if (!__builtin_cpu_supports("avx2")) return 0;
  return rate(static_cast<double>(memory.size()), repeats,
              [&] { read_all(memory.data(), memory.size()); });
}
#else
double dot_rate(int) {
  return 0;
}
double read_rate(const backends::cpu::Block&, int) {
  return 0;
}
#endif

Result<const QuantKernels*> kernels_for(const std::string& isa) {
  MESH_ASSIGN_OR_RETURN(const backends::cpu::KernelTable* table,
                        backends::cpu::select_kernels(isa));
#if defined(MESH_CPU_X86)
  const std::string name = table->isa;
  if (name == "avx512" && __builtin_cpu_supports("avx512vnni"))
    return &backends::cpu::avx512_quant256_kernels();
  if (name == "avx512" || name == "avx2") return &backends::cpu::avx2_quant256_kernels();
  if (isa != "scalar_plain" && __builtin_cpu_supports("fma"))
    return &backends::cpu::scalar_fma_quant256_kernels();
#else
  static_cast<void>(table);
#endif
  return &backends::cpu::scalar_plain_quant256_kernels();
}

// GOP/s of a walk over several matrices, together beyond every cache: what decoding does.
double product_rate(const QuantKernels& kernels, const Options& options, int type, int rows,
                    const backends::cpu::Block& memory) {
  const std::size_t group = backends::cpu::group_bytes256(type, options.in);
  const std::size_t matrix = group * static_cast<std::size_t>(options.out / 16);
  const std::size_t all = memory.size() / matrix;
  const std::size_t matrices = rows >= 64 ? std::min<std::size_t>(all, 4) : all;
  const int tile = rows == 1 ? 1 : kActRows;
  const auto tiles = static_cast<std::size_t>((rows + tile - 1) / tile * (options.in / 256));
  std::vector<std::byte> x(tiles * (rows == 1 ? sizeof(Act256<1>) : sizeof(Act256<kActRows>)));
  std::vector<float> y(static_cast<std::size_t>(rows * options.out));
  const double ops = 2.0 * rows * static_cast<double>(options.out * options.in);
  return rate(ops * static_cast<double>(matrices), options.repeats, [&] {
    for (std::size_t m = 0; m < matrices; ++m) {
      QuantArgs a;
      a.w = memory.data() + m * matrix;
      a.group_bytes = group;
      a.groups = static_cast<int>(options.out / 16);
      a.outs = static_cast<int>(options.out);
      a.in = options.in;
      a.x = x.data();
      a.rows = rows;
      a.y = y.data();
      a.ldy = options.out;
      (rows == 1 ? kernels.one : kernels.rows)[type](a);
    }
  });
}

Result<void> measure(const Options& options, Report& report) {
  MESH_ASSIGN_OR_RETURN(const QuantKernels* kernels, kernels_for(options.isa));
  constexpr std::uint64_t kBytes = std::uint64_t{192} << 20;
  const auto memory = backends::cpu::Block::allocate(kBytes, true);
  if (!memory) return Error(Code::kResourceExhausted, "no memory for the weights");
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i < kBytes; i += sizeof(std::uint64_t)) {
    // No half with these bits is infinite.
    const std::uint64_t bits = random() & 0x3F3F3F3F3F3F3F3Full;
    std::memcpy(memory.data() + i, &bits, sizeof(bits));
  }
  const double read = read_rate(memory, options.repeats);
  const double dot = dot_rate(options.repeats);
  report.value("read bandwidth", read, "GB/s");
  report.value("dot-product instruction", dot, "GOP/s");
  for (int i = 0; i < 6; ++i) {
    if (!options.type.empty() && options.type != kNames[i]) continue;
    const int type = backends::cpu::kQuantQ2_K + i;
    for (const int rows : options.rows) {
      const double gops = product_rate(*kernels, options, type, rows, memory);
      const std::size_t group = backends::cpu::group_bytes256(type, options.in);
      const double gbytes =
          gops * static_cast<double>(group) / (32.0 * rows * static_cast<double>(options.in));
      const std::string name = fmt::format("{}, {} rows: ", kNames[i], rows);
      report.value(name + "products", gops, "GOP/s");
      if (dot > 0) report.value(name + "of the instruction", 100 * gops / dot, "%");
      report.value(name + "weights", gbytes, "GB/s");
      if (read > 0) report.value(name + "of the bandwidth", 100 * gbytes / read, "%");
    }
  }
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("bench_quant256: products with weights in blocks of 256 on one thread");
  ReportOptions report_options;
  Options options;
  add_options(app, report_options);
  app.add_option("--isa", options.isa, "avx512, avx2, scalar, scalar_plain; default: the best");
  app.add_option("--type", options.type, "one type only, such as Q4_K");
  app.add_option("--out", options.out, "outputs, a multiple of 16")->check(CLI::Range(16, 1 << 17));
  app.add_option("--in", options.in, "columns, a multiple of 256")->check(CLI::Range(256, 1 << 15));
  app.add_option("--rows", options.rows, "rows of activations")->delimiter(',');
  app.add_option("--repeats", options.repeats, "runs, of which the median counts");
  CLI11_PARSE(app, argc, argv);
  if (options.out % 16 != 0 || options.in % 256 != 0) return give_up("uneven shape");
  Report report("quant256", report_options);
  if (const auto done = measure(options, report); !done.ok()) return give_up(done.error().message);
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
