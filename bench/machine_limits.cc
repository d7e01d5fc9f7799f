// What this machine can do at most: bytes read from memory and small integer products, per second
// and number of threads. Other benchmarks give their figures as a share of it.

#include <fmt/format.h>
#include <sched.h>
#include <sys/mman.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <barrier>
#include <cstring>
#include <functional>
#include <thread>

#include "base/result.h"
#include "bench/support/report.h"
#include "node/machine.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mesh::bench {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
volatile std::int64_t g_sink = 0;  // keeps the results of the loops alive

struct Options {
  std::string isa;
  std::vector<int> threads;
  std::vector<int> cores;
  std::size_t mebibytes = 1024;  // of each thread
  int repetitions = 7;
  std::int64_t products = 10'000'000;  // rounds of the loop
};

// --- one instruction set each: sums all bytes as words; `rounds` of products on all accumulators

struct Kernels {
  const char* isa;
  const char* product;  // the instruction that counts
  bool (*usable)();
  void (*read)(const char* data, std::size_t bytes);
  void (*multiply)(std::int64_t rounds);
  double operations;  // of a round, 2 per multiply-accumulate
};

#if defined(__x86_64__)

// Keeps the compiler from knowing the value, so that nothing is moved out of the loop.
#define MESH_OPAQUE(vector) asm volatile("" : "+v"(vector))

constexpr int kStreams512 = 8, kChains512 = 16;

__attribute__((target("avx512f"))) std::int64_t sum_512(__m512i words) {
  alignas(64) std::int32_t lanes[16];
  _mm512_store_si512(lanes, words);
  std::int64_t total = 0;
  for (const std::int32_t lane : lanes) total += lane;
  return total;
}

__attribute__((target("avx512f,avx512bw,avx512vl"))) void read_512(const char* data,
                                                                   std::size_t bytes) {
  __m512i sum[kStreams512];
#pragma GCC unroll 8
  for (int k = 0; k < kStreams512; ++k) sum[k] = _mm512_setzero_si512();
  for (std::size_t i = 0; i + 64 * kStreams512 <= bytes; i += 64 * kStreams512) {
#pragma GCC unroll 8
    for (int k = 0; k < kStreams512; ++k)
      sum[k] = _mm512_add_epi32(sum[k], _mm512_load_si512(data + i + 64 * k));
  }
#pragma GCC unroll 8
  for (int k = 1; k < kStreams512; ++k) sum[0] = _mm512_add_epi32(sum[0], sum[k]);
  g_sink = g_sink + sum_512(sum[0]);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) void multiply_512(
    std::int64_t rounds) {
  __m512i sum[kChains512], u = _mm512_set1_epi8(3), v = _mm512_set1_epi8(2);
#pragma GCC unroll 16
  for (int k = 0; k < kChains512; ++k) sum[k] = _mm512_setzero_si512();
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < kChains512; ++k) {
      sum[k] = _mm512_dpbusd_epi32(sum[k], u, v);
      MESH_OPAQUE(sum[k]);
    }
  }
#pragma GCC unroll 16
  for (int k = 1; k < kChains512; ++k) sum[0] = _mm512_add_epi32(sum[0], sum[k]);
  g_sink = g_sink + sum_512(sum[0]);
}

constexpr int kStreams256 = 8, kChains256 = 8;

__attribute__((target("avx2"))) std::int64_t sum_256(__m256i words) {
  alignas(32) std::int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), words);
  std::int64_t total = 0;
  for (const std::int32_t lane : lanes) total += lane;
  return total;
}

__attribute__((target("avx2"))) void read_256(const char* data, std::size_t bytes) {
  __m256i sum[kStreams256];
#pragma GCC unroll 8
  for (int k = 0; k < kStreams256; ++k) sum[k] = _mm256_setzero_si256();
  for (std::size_t i = 0; i + 32 * kStreams256 <= bytes; i += 32 * kStreams256) {
#pragma GCC unroll 8
    for (int k = 0; k < kStreams256; ++k)
      sum[k] = _mm256_add_epi32(
          sum[k], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + i + 32 * k)));
  }
#pragma GCC unroll 8
  for (int k = 1; k < kStreams256; ++k) sum[0] = _mm256_add_epi32(sum[0], sum[k]);
  g_sink = g_sink + sum_256(sum[0]);
}

// Without VNNI a product of bytes that ends in 32 bits takes three instructions.
__attribute__((target("avx2"))) void multiply_256(std::int64_t rounds) {
  __m256i sum[kChains256], u = _mm256_set1_epi8(3), v = _mm256_set1_epi8(2);
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int k = 0; k < kChains256; ++k) sum[k] = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < kChains256; ++k) {
      __m256i left = u;
      MESH_OPAQUE(left);
      const __m256i words = _mm256_madd_epi16(_mm256_maddubs_epi16(left, v), ones);
      sum[k] = _mm256_add_epi32(sum[k], words);
      MESH_OPAQUE(sum[k]);
    }
  }
#pragma GCC unroll 8
  for (int k = 1; k < kChains256; ++k) sum[0] = _mm256_add_epi32(sum[0], sum[k]);
  g_sink = g_sink + sum_256(sum[0]);
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2");
}

#endif

void read_plain(const char* data, std::size_t bytes) {
  std::uint64_t sum[4] = {};
  for (std::size_t i = 0; i + sizeof sum <= bytes; i += sizeof sum) {
    std::uint64_t words[4];
    std::memcpy(words, data + i, sizeof words);
    for (int k = 0; k < 4; ++k) sum[k] += words[k];
  }
  g_sink = g_sink + static_cast<std::int64_t>(sum[0] + sum[1] + sum[2] + sum[3]);
}

constexpr int kPlainValues = 256;

void multiply_plain(std::int64_t rounds) {
  std::int8_t left[kPlainValues], right[kPlainValues];
  std::fill_n(left, kPlainValues, static_cast<std::int8_t>(3));
  std::fill_n(right, kPlainValues, static_cast<std::int8_t>(2));
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < rounds; ++i) {
    left[i % kPlainValues] = static_cast<std::int8_t>(i);
    for (int k = 0; k < kPlainValues; ++k) sum += left[k] * right[k];
  }
  g_sink = g_sink + sum;
}

constexpr Kernels kKernels[] = {
#if defined(__x86_64__)
    {"avx512", "vpdpbusd", has_avx512, read_512, multiply_512, kChains512 * 64 * 2.0},
    {"avx2", "vpmaddubsw", has_avx2, read_256, multiply_256, kChains256 * 32 * 2.0},
#endif
    {"scalar", "plain", [] { return true; }, read_plain, multiply_plain, kPlainValues * 2.0},
};

// Memory of huge pages where the system gives them, every page touched.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes) {
    mapped_ = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                   -1, 0);
    if (mapped_ == MAP_FAILED) return;
    const auto begin = reinterpret_cast<std::uintptr_t>(mapped_);
    data_ = reinterpret_cast<char*>((begin + kHugePage - 1) / kHugePage * kHugePage);
    madvise(data_, bytes, MADV_HUGEPAGE);
    std::memset(data_, 1, bytes);
  }
  ~Memory() {
    if (mapped_ != MAP_FAILED) munmap(mapped_, bytes_ + kHugePage);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  const char* data() const { return data_; }

 private:
  std::size_t bytes_;
  void* mapped_ = MAP_FAILED;
  char* data_ = nullptr;
};

void bind(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(core), &set);
  sched_setaffinity(0, sizeof set, &set);
}

// Seconds in which all threads, each on its core, have done `work`.
double together(int threads, const Options& options, const std::function<void(int)>& work) {
  std::barrier start(threads + 1), end(threads + 1);
  std::vector<std::thread> running;
  for (int t = 0; t < threads; ++t)
    running.emplace_back([&, t] {
      if (!options.cores.empty())
        bind(options.cores[static_cast<std::size_t>(t) % options.cores.size()]);
      start.arrive_and_wait();
      work(t);
      end.arrive_and_wait();
    });
  start.arrive_and_wait();
  const Instant begin = now();
  end.arrive_and_wait();
  const double seconds = to_seconds(now() - begin);
  for (std::thread& thread : running) thread.join();
  return seconds;
}

Result<void> measure(const Kernels& kernels, const Options& options, Report& report) {
  const int most = *std::max_element(options.threads.begin(), options.threads.end());
  const std::size_t bytes = options.mebibytes << 20;
  std::vector<std::unique_ptr<Memory>> memory(static_cast<std::size_t>(most));
  together(most, options,
           [&](int t) { memory[static_cast<std::size_t>(t)] = std::make_unique<Memory>(bytes); });
  for (const auto& part : memory)
    if (part->data() == nullptr)
      return Error(Code::kResourceExhausted,
                   fmt::format("no memory for {} threads of {} MiB", most, options.mebibytes));
  for (const int threads : options.threads) {
    std::vector<double> reads, products;
    for (int i = 0; i < options.repetitions; ++i) {
      const double read_s = together(threads, options, [&](int t) {
        kernels.read(memory[static_cast<std::size_t>(t)]->data(), bytes);
      });
      reads.push_back(static_cast<double>(bytes) * threads / read_s / 1e9);
      const double product_s =
          together(threads, options, [&](int) { kernels.multiply(options.products); });
      products.push_back(static_cast<double>(options.products) * kernels.operations * threads /
                         product_s / 1e9);
    }
    report.value(fmt::format("threads {}: read, median", threads), percentile(reads, 0.5), "GB/s");
    report.value(fmt::format("threads {}: read, best", threads), percentile(reads, 1), "GB/s");
    report.value(fmt::format("threads {}: {}, median", threads, kernels.product),
                 percentile(products, 0.5), "GOP/s");
    report.value(fmt::format("threads {}: {}, best", threads, kernels.product),
                 percentile(products, 1), "GOP/s");
  }
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("bench_machine_limits: memory bandwidth and the peak of byte products");
  ReportOptions report_options;
  Options options;
  add_options(app, report_options);
  app.add_option("--isa", options.isa, "avx512, avx2 or scalar; default: the best");
  app.add_option("--threads", options.threads, "how many at once; several: one after the other")
      ->delimiter(',')
      ->check(CLI::Range(1, 512));
  app.add_option("--cores", options.cores, "thread i runs on the i-th of them")->delimiter(',');
  app.add_option("--mebibytes", options.mebibytes, "read by each thread")
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--repetitions", options.repetitions)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  if (options.threads.empty()) options.threads = {1, node::core_count()};
  for (const Kernels& kernels : kKernels)
    if (options.isa == kernels.isa || (options.isa.empty() && kernels.usable())) {
      if (!kernels.usable()) return give_up(fmt::format("this machine has no {}", kernels.isa));
      Report report("machine_limits", report_options);
      if (const auto measured = measure(kernels, options, report); !measured.ok())
        return give_up(measured.error().message);
      return report.finish();
    }
  return give_up("no kernels for " + options.isa);
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
