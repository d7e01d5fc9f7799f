// Rates of the quantised products of the cpu backend, one thread, beside the machine's own limits
// in the same run. All times are CPU time of the thread, so that other programs count less.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "backends/cpu/float_mode.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/memory.h"
#include "backends/cpu/quant.h"
#include "base/random.h"
#include "bench/support/machine_peaks.h"
#include "bench/support/report.h"

namespace mesh::bench {
namespace {

using namespace backends::cpu;

constexpr std::size_t kWeightBytes = 160u << 20;  // several times the last cache
constexpr const char* kNames[kQuantTypes] = {"q4_0",   "q4_1",  "q5_0",  "q5_1", "q8_0",
                                             "iq4_nl", "mxfp4", "q2_k",  "q3_k", "q4_k",
                                             "q5_k",   "q6_k",  "iq4_xs"};
constexpr std::size_t kBlockBytes[kQuantTypes] = {18, 20,  22,  24,  34,  18, 17,
                                                  84, 110, 144, 176, 210, 136};

struct Options {
  std::string isa;
  std::vector<std::string> types{"q4_0", "q8_0"};
  std::vector<int> rows{1, 2, 4, 8, 16, 512};
  std::int64_t in = 1024, out = 3072;
  int repeat = 15;
  bool cached = false;
};

// Seconds of `repeat` runs after one to warm up, ascending.
std::vector<double> times(int repeat, const std::function<void()>& run) {
  run();
  std::vector<double> seconds;
  for (int i = 0; i < repeat; ++i) {
    const double start = thread_seconds();
    run();
    seconds.push_back(thread_seconds() - start);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

void add_rates(Report& report, const std::string& name, const std::vector<double>& seconds,
               double work, const char* unit) {
  report.value(name, work / seconds[seconds.size() / 2] * 1e-9, unit);
  report.value(name + " best", work / seconds.front() * 1e-9, unit);
}

// What the machine can do at most with these instructions, on this thread.
void limits(Report& report, const MachinePeaks& peaks, const std::byte* memory, int repeat) {
  constexpr std::int64_t kRounds = 4'000'000;
  const auto* data = reinterpret_cast<const char*>(memory);
  add_rates(report, "read", times(repeat, [&] { peaks.read(data, kWeightBytes); }), kWeightBytes,
            "GB/s");
  add_rates(report, fmt::format("{} peak", peaks.product),
            times(repeat, [&] { peaks.multiply(kRounds); }), peaks.operations * kRounds, "GOP/s");
}

// Groups of `in` columns, all with the bytes of one; scales are moderate.
std::size_t fill(const QuantKernels& quant, int type, std::int64_t in, std::byte* memory) {
  const std::size_t group = quant_group_bytes(type, in);
  const std::size_t row =
      static_cast<std::size_t>(in / (is_256(type) ? 256 : 32)) * kBlockBytes[type];
  std::vector<std::byte> source(16 * row);
  Prng prng(1);
  // Bytes below 0x40 are neither signs nor large exponents wherever a scale may lie.
  for (std::byte& byte : source) byte = static_cast<std::byte>(prng.below(0x30));
  const std::byte* rows[16];
  for (std::size_t i = 0; i < 16; ++i) rows[i] = source.data() + i * row;
  quant_pack_group(type, rows, in, quant.isa_signed, memory);
  const std::size_t groups = kWeightBytes / group;
  for (std::size_t g = 1; g < groups; ++g) std::memcpy(memory + g * group, memory, group);
  return groups;
}

void measure(Report& report, const QuantKernels& quant, int type, int rows, const Options& options,
             std::byte* memory, std::size_t groups) {
  Prng prng(2);
  std::vector<float> x(static_cast<std::size_t>(rows * options.in));
  for (float& value : x) value = static_cast<float>(prng.range(-1, 1));
  const int tile = rows == 1 ? 1 : kActRows;
  Block tiles = Block::allocate(x.size() * 8 + 4096, true);
  Block y = Block::allocate(static_cast<std::size_t>(rows * options.out) * sizeof(float), true);
  const auto quantize = is_256(type) ? quant.quantize256 : quant.quantize32;
  quantize(x.data(), options.in, rows, options.in, tile, tiles.data());
  // Matrices follow one another in memory as in a step; many rows need few of them.
  const auto per_matrix = static_cast<std::size_t>((options.out + 15) / 16);
  const std::size_t matrices = std::max<std::size_t>(
      1, std::min(groups / per_matrix, static_cast<std::size_t>(4096 / rows)));
  QuantArgs args;
  args.group_bytes = quant_group_bytes(type, options.in);
  args.groups = static_cast<int>(per_matrix);
  args.outs = static_cast<int>(options.out);
  args.in = options.in;
  args.x = tiles.data();
  args.rows = rows;
  args.y = reinterpret_cast<float*>(y.data());
  args.ldy = options.out;
  const auto kernel = rows == 1 ? quant.one[type] : quant.rows[type];
  const std::vector<double> seconds = times(options.repeat, [&] {
    for (std::size_t m = 0; m < matrices; ++m) {
      args.w = memory + (options.cached ? 0 : m) * per_matrix * args.group_bytes;
      kernel(args);
    }
  });
  const std::string name = std::string(kNames[type]) + " rows " + std::to_string(rows);
  const double weights = static_cast<double>(matrices * per_matrix);
  if (rows <= 4)
    add_rates(report, name, seconds, weights * static_cast<double>(args.group_bytes), "GB/s");
  if (rows > 1)
    add_rates(report, name + " ops", seconds,
              weights * 16 * 2 * rows * static_cast<double>(options.in), "GOP/s");
}

int run(int argc, char** argv) {
  CLI::App app("bench_products: quantised products of the cpu backend, one thread");
  ReportOptions report_options;
  add_options(app, report_options);
  Options options;
  app.add_option("--isa", options.isa, "instruction set; the best by default");
  app.add_option("--types", options.types, "quantised types")->delimiter(',');
  app.add_option("--rows", options.rows, "numbers of rows")->delimiter(',');
  app.add_option("--in", options.in, "columns, a multiple of the block");
  app.add_option("--out", options.out, "outputs of a matrix");
  app.add_flag("--cached", options.cached, "one matrix again and again");
  app.add_option("--repeat", options.repeat, "runs of each");
  CLI11_PARSE(app, argc, argv);
  const auto kernels = select_kernels(options.isa);
  if (!kernels.ok()) return give_up(kernels.error().message);
  const QuantKernels quant = quant_kernels(**kernels);
  const MachinePeaks* peaks = machine_peaks((*kernels)->isa);
  if (peaks == nullptr) return give_up(fmt::format("no limits of {}", (*kernels)->isa));
  set_float_mode();
  Block memory = Block::allocate(kWeightBytes, true);
  if (!memory) return give_up("no memory for the weights");
  std::memset(memory.data(), 1, kWeightBytes);
  Report report("products", report_options);
  limits(report, *peaks, memory.data(), options.repeat);
  for (int type = 0; type < kQuantTypes; ++type) {
    const bool wanted =
        std::find(options.types.begin(), options.types.end(), kNames[type]) != options.types.end();
    if (!wanted || quant.one[type] == nullptr) continue;
    const std::size_t groups = fill(quant, type, options.in, memory.data());
    for (const int rows : options.rows)
      measure(report, quant, type, rows, options, memory.data(), groups);
  }
  limits(report, *peaks, memory.data(), options.repeat);
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
