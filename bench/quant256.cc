// Products with weights in blocks of 256, one thread: how close one row comes to the read bandwidth
// and many rows to the rate of the dot-product instruction, both measured in the same run. Times
// are of the thread's own processor time, so that other work on the machine counts little.

#include <immintrin.h>
#include <sys/mman.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/memory.h"
#include "backends/cpu/quant256.h"
#include "backends/cpu/quant_pack256.h"

namespace mesh::bench {
namespace {
using namespace backends::cpu;

double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}
struct Rate { double median, best; };
Rate rate(double work, int repeats, const std::function<void()>& run) {
  std::vector<double> seconds;
  run();
  for (int i = 0; i < repeats; ++i) {
    const double start = cpu_seconds();
    run();
    seconds.push_back(cpu_seconds() - start);
  }
  std::sort(seconds.begin(), seconds.end());
  return {work / seconds[seconds.size() / 2] / 1e9, work / seconds[0] / 1e9};
}
volatile int sink;
__attribute__((target("avx512f"))) void read_all(const std::byte* p, std::size_t n) {
  __m512i a[8];
#pragma GCC unroll 8
  for (int k = 0; k < 8; k++) a[k] = _mm512_setzero_si512();
  for (std::size_t i = 0; i + 512 <= n; i += 512) {
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) a[k] = _mm512_add_epi32(a[k], _mm512_load_si512(p + i + 64 * k));
  }
#pragma GCC unroll 8
  for (int k = 1; k < 8; k++) a[0] = _mm512_add_epi32(a[0], a[k]);
  sink = _mm512_reduce_add_epi32(a[0]);
}
__attribute__((target("avx512f,avx512vnni"))) void vnni(long n) {
  __m512i a[16], u = _mm512_set1_epi8(3), v = _mm512_set1_epi8(2);
#pragma GCC unroll 16
  for (int k = 0; k < 16; k++) a[k] = _mm512_setzero_si512();
  for (long i = 0; i < n; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < 16; k++) { a[k] = _mm512_dpbusd_epi32(a[k], u, v); asm volatile("" : "+v"(a[k])); }
  }
#pragma GCC unroll 16
  for (int k = 1; k < 16; k++) a[0] = _mm512_add_epi32(a[0], a[k]);
  sink = _mm512_reduce_add_epi32(a[0]);
}
}  // namespace

int run(int argc, char** argv) {
  std::string isa = "avx512", only;
  std::int64_t out = 3072, in = 1024;
  std::vector<int> rows_list = {1, 2, 4, 8, 16, 512};
  int repeats = 5;
  CLI::App app("256-blocks");
  app.add_option("--isa", isa);
  app.add_option("--type", only);
  app.add_option("--out", out);
  app.add_option("--in", in);
  app.add_option("--rows", rows_list)->delimiter(',');
  app.add_option("--repeats", repeats);
  CLI11_PARSE(app, argc, argv);
  const QuantKernels& kernels = isa == "avx512" ? avx512_quant256_kernels()
                                : isa == "avx2" ? avx2_quant256_kernels()
                                                : scalar_fma_quant256_kernels();
  const std::size_t total = std::size_t{192} << 20;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(std::size_t{2} << 20, total + (2 << 20)));
  madvise(memory, total, MADV_HUGEPAGE);
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i < total; i += 8) {
    const std::uint64_t v = random() & 0x3F3F3F3F3F3F3F3Full;
    std::memcpy(memory + i, &v, 8);
  }
  const Rate read = rate(static_cast<double>(total), repeats, [&] { read_all(memory, total); });
  const Rate peak = rate(16.0 * 128 * 2e6, repeats, [&] { vnni(2000000); });
  std::printf("read %.1f GB/s (best %.1f), vpdpbusd %.0f GOP/s (best %.0f)\n", read.median, read.best, peak.median, peak.best);
  const char* names[] = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"};
  for (int type = kQuantQ2_K; type < kQuantTypes; ++type) {
    if (!only.empty() && only != names[type - kQuantQ2_K]) continue;
    const std::size_t group = group_bytes256(type, in);
    const std::size_t matrix = group * static_cast<std::size_t>(out / 16);
    const std::size_t matrices = total / matrix;
    for (int rows : rows_list) {
      const int tile = rows == 1 ? 1 : kActRows;
      const std::size_t tiles = static_cast<std::size_t>((rows + tile - 1) / tile * (in / 256));
      std::vector<std::byte> x(tiles * (rows == 1 ? sizeof(Act256<1>) : sizeof(Act256<kActRows>)));
      for (std::byte& b : x) b = static_cast<std::byte>(random() & 31);
      std::vector<float> y(static_cast<std::size_t>(rows * out));
      const std::size_t use = rows >= 64 ? std::min<std::size_t>(matrices, 4) : matrices;
      const auto walk = [&] {
        for (std::size_t m = 0; m < use; ++m) {
          QuantArgs a;
          a.w = memory + m * matrix;
          a.group_bytes = group;
          a.groups = static_cast<int>(out / 16);
          a.outs = static_cast<int>(out);
          a.in = in;
          a.x = x.data();
          a.rows = rows;
          a.y = y.data();
          a.ldy = out;
          (rows == 1 ? kernels.one : kernels.rows)[type](a);
        }
      };
      const double ops = 2.0 * rows * static_cast<double>(out * in) * static_cast<double>(use);
      const double bytes = static_cast<double>(matrix * use);
      const Rate r = rate(ops, repeats, walk);
      const double gb = r.median * bytes / ops;
      std::printf("%-7s %-6s rows %3d  %6.1f GB/s (%3.0f %%)  %6.1f GOP/s (%3.0f %%, best %.0f)\n", isa.c_str(), names[type - kQuantQ2_K], rows, gb,
                  100 * gb / read.median, r.median, 100 * r.median / peak.median, r.best);
      std::fflush(stdout);
    }
  }
  return 0;
}
}  // namespace mesh::bench
int main(int argc, char** argv) { return mesh::bench::run(argc, argv); }
