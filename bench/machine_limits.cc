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
#include "bench/support/machine_peaks.h"
#include "bench/support/report.h"
#include "topology/topology.h"

namespace mesh::bench {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

struct Options {
  std::string isa;
  std::vector<int> threads;
  std::vector<int> cores;
  std::size_t mebibytes = 1024;  // of each thread
  int repetitions = 7;
  std::int64_t products = 10'000'000;  // rounds of the loop
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

Result<void> measure(const MachinePeaks& kernels, const Options& options, Report& report) {
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
  if (options.threads.empty()) options.threads = {1, topology::default_threads()};
  const MachinePeaks* peaks = machine_peaks(options.isa);
  if (peaks == nullptr) return give_up("no kernels for " + options.isa);
  if (!peaks->usable()) return give_up(fmt::format("this machine has no {}", peaks->isa));
  Report report("machine_limits", report_options);
  if (const auto measured = measure(*peaks, options, report); !measured.ok())
    return give_up(measured.error().message);
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
