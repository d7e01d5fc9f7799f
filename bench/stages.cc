// A model over two stages of this machine against one, and how well the stages are used. Driver
// over engine, without HTTP; real loops and mutual TLS on loopback.

#include <CLI/CLI.hpp>
#include <algorithm>

#include "bench/support/bench_model.h"
#include "bench/support/report.h"
#include "measure/local_mesh.h"
#include "topology/topology.h"
#include "wire/messages.h"

namespace mesh::bench {
namespace {

using measure::LocalMesh;

constexpr double kRateBar = 0.99;  // of 1 / (t_single + 2 hops)
constexpr double kBusyBar = 0.85;
constexpr double kGapBar = 2;

struct Options {
  int threads = 0;
  std::uint32_t blocks = 6;
  std::uint32_t block_tokens = 64;
  std::uint32_t busy_tokens = 200;
  std::uint32_t calm_tokens = 150;
  std::uint32_t long_prompt = 2048;
  bool rate = false, busy = false, gap = false;
};

// One stream alone; milliseconds per token.
Result<double> block(LocalMesh& mesh, const Options& options, std::uint64_t number) {
  const LocalMesh::Running running = mesh.ask(16, options.block_tokens, number);
  MESH_RETURN_IF_ERROR(running.stream->wait_end());
  return measure::ms_per_token(running.stream->times());
}

// Milliseconds that the engines of all stages computed per decode step since `begin`.
double computed_ms(const LocalMesh& mesh, Instant begin) {
  double sum = 0;
  for (std::size_t stage = 0; stage < mesh.stages(); ++stage)
    sum += measure::mean_decode_ms(measure::between(mesh.records(stage), begin, now()));
  return sum;
}

// Two stages against one, block by block, so that a slow minute of the machine meets both.
Result<void> measure_rate(LocalMesh& one, LocalMesh& two, const Options& options, Report& report) {
  std::vector<double> shares, singles, doubles, there, back;
  std::vector<double> single_computed, double_computed;
  for (std::uint32_t i = 0; i < options.blocks + 1; ++i) {
    const Instant begin = now();
    MESH_ASSIGN_OR_RETURN(const double single_ms, block(one, options, i));
    MESH_ASSIGN_OR_RETURN(const double double_ms, block(two, options, i));
    if (i == 0) continue;  // warms both up
    // Rows to the second stage, tokens back to the first.
    const auto hops = two.hops();
    const auto hop_ms = [&](wire::FrameType type) {
      return measure::median_hop_ms(hops, static_cast<std::uint8_t>(type), begin, now());
    };
    there.push_back(hop_ms(wire::FrameType::kStep));
    back.push_back(hop_ms(wire::FrameType::kTokens));
    singles.push_back(single_ms);
    doubles.push_back(double_ms);
    single_computed.push_back(computed_ms(one, begin));
    double_computed.push_back(computed_ms(two, begin));
    shares.push_back((single_ms + there.back() + back.back()) / double_ms);
  }
  report.value("rate: one stage", 1000 / percentile(singles, 0.5), "tokens/s");
  report.value("rate: two stages", 1000 / percentile(doubles, 0.5), "tokens/s");
  report.value("rate: hop of rows, p50", percentile(there, 0.5) * 1000, "us");
  report.value("rate: hop of tokens, p50", percentile(back, 0.5) * 1000, "us");
  const double single_ms = percentile(singles, 0.5), double_ms = percentile(doubles, 0.5);
  const double in_one = percentile(single_computed, 0.5), in_two = percentile(double_computed, 0.5);
  report.value("rate: beside computing, one stage", (single_ms - in_one) * 1000, "us");
  report.value("rate: beside computing, two stages", (double_ms - in_two) * 1000, "us");
  report.value("rate: two stages compute longer than one by", (in_two - in_one) * 1000, "us");
  report.at_least("rate: share of 1 / (t_single + 2 hops)", percentile(shares, 0.5), kRateBar, "");
  return {};
}

Result<void> measure_busy(LocalMesh& two, const Options& options, Report& report) {
  constexpr std::uint32_t kStreams = 8, kSettled = 16;
  std::vector<LocalMesh::Running> running;
  for (std::uint32_t i = 0; i < kStreams; ++i)
    running.push_back(two.ask(16, options.busy_tokens + kSettled, 100 + i));
  for (const auto& r : running) MESH_RETURN_IF_ERROR(r.stream->wait_tokens(kSettled));
  const Instant begin = now();
  for (const auto& r : running) MESH_RETURN_IF_ERROR(r.stream->wait_end());
  // Until the first of them ends all eight run.
  Instant end = now();
  std::size_t tokens = 0;
  for (const auto& r : running) end = std::min(end, r.stream->times().back());
  for (const auto& r : running)
    for (const Instant at : r.stream->times()) tokens += at >= begin && at < end;
  report.value("busy: 8 streams, two stages", static_cast<double>(tokens) / to_seconds(end - begin),
               "tokens/s");
  for (std::size_t stage = 0; stage < two.stages(); ++stage) {
    const auto records = measure::between(two.records(stage), begin, end);
    const double batch = measure::mean_decode_batch(records);
    report.at_least(fmt::format("busy: share of stage {}", stage),
                    measure::busy_share(records, begin, end), kBusyBar, "");
    report.value(fmt::format("busy: mean decode batch of stage {}", stage), batch, "rows");
    report.value(fmt::format("busy: micro-batches of stage {} in flight", stage),
                 batch > 0 ? kStreams / batch : 0, "");
  }
  return {};
}

Result<void> measure_gap(LocalMesh& two, const Options& options, Report& report) {
  constexpr std::uint32_t kStreams = 4, kSettled = 16, kAtMost = 4000;
  std::vector<LocalMesh::Running> running;
  for (std::uint32_t i = 0; i < kStreams; ++i) running.push_back(two.ask(16, kAtMost, 200 + i));
  for (const auto& r : running) MESH_RETURN_IF_ERROR(r.stream->wait_tokens(kSettled));
  const Instant calm = now();
  for (const auto& r : running)
    MESH_RETURN_IF_ERROR(r.stream->wait_tokens(kSettled + options.calm_tokens));
  const Instant asked = now();
  const LocalMesh::Running newcomer = two.ask(options.long_prompt, 1, 300);
  MESH_RETURN_IF_ERROR(newcomer.stream->wait_end());
  const Instant answered = now();
  for (const auto& r : running) two.cancel(r.sequence);
  std::vector<double> before, during;
  for (const auto& r : running) {
    const auto times = r.stream->times();
    const auto calm_gaps = measure::gaps_ms(times, calm, asked);
    before.insert(before.end(), calm_gaps.begin(), calm_gaps.end());
    // A gap that begins before the prompt or ends behind it belongs to it.
    for (std::size_t i = 1; i < times.size(); ++i)
      if (times[i] >= asked && times[i - 1] < answered)
        during.push_back(to_milliseconds(times[i] - times[i - 1]));
    if (!times.empty() && times.back() < answered)
      during.push_back(to_milliseconds(answered - times.back()));
  }
  const double p99_before = percentile(before, 0.99), p99 = percentile(during, 0.99);
  report.value(fmt::format("gap: time to first token of {} tokens", options.long_prompt),
               to_milliseconds(answered - asked), "ms");
  report.value("gap: 4 streams before, p50", percentile(before, 0.5), "ms");
  report.value("gap: 4 streams before, p99", p99_before, "ms");
  report.value("gap: 4 streams meanwhile, p99", p99, "ms");
  report.value("gap: tokens of the 4 streams meanwhile", static_cast<double>(during.size()), "");
  report.at_most("gap: p99 meanwhile / p99 before", p99_before > 0 ? p99 / p99_before : 1e9,
                 kGapBar, "");
  return {};
}

Result<void> measure(const Options& options, Report& report) {
  const bool all = !options.rate && !options.busy && !options.gap;
  measure::LocalMeshOptions mesh;
  mesh.model = bench_model;
  mesh.threads =
      options.threads > 0 ? options.threads : std::max(1, topology::default_threads() / 2);
  MESH_ASSIGN_OR_RETURN(formats::ModelFiles model, bench_model());
  MESH_ASSIGN_OR_RETURN(mesh.stages, measure::planned_stages(std::move(model), 2));
  MESH_ASSIGN_OR_RETURN(const std::unique_ptr<LocalMesh> two, LocalMesh::start(mesh));
  report.value("threads of each stage", mesh.threads, "");
  if (all || options.rate) {
    mesh.stages = {{0, kModelLayers}};
    MESH_ASSIGN_OR_RETURN(const std::unique_ptr<LocalMesh> one, LocalMesh::start(mesh));
    MESH_RETURN_IF_ERROR(measure_rate(*one, *two, options, report));
  }
  if (all || options.busy) MESH_RETURN_IF_ERROR(measure_busy(*two, options, report));
  if (all || options.gap) MESH_RETURN_IF_ERROR(measure_gap(*two, options, report));
  return {};
}

int run(int argc, char** argv) {
  CLI::App app("bench_stages: two stages of this machine against one; all three parts by default");
  ReportOptions report_options;
  Options options;
  add_options(app, report_options);
  app.add_flag("--rate", options.rate, "one stream over two stages against one stage");
  app.add_flag("--busy", options.busy, "eight streams over two stages: are both busy");
  app.add_flag("--gap", options.gap, "what a long prompt does to four running streams");
  app.add_option("--threads", options.threads, "of each stage; default: half of the cores");
  app.add_option("--blocks", options.blocks, "pairs of alternating blocks")
      ->check(CLI::Range(1, 1000));
  app.add_option("--block-tokens", options.block_tokens)->check(CLI::Range(2, 4000));
  app.add_option("--busy-tokens", options.busy_tokens)->check(CLI::Range(2, 3000));
  app.add_option("--calm-tokens", options.calm_tokens)->check(CLI::Range(2, 2000));
  app.add_option("--long-prompt", options.long_prompt)->check(CLI::Range(1, 8000));
  CLI11_PARSE(app, argc, argv);
  Report report("stages", report_options);
  if (const auto measured = measure(options, report); !measured.ok())
    return give_up(measured.error().message);
  return report.finish();
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  return mesh::bench::run(argc, argv);
}
