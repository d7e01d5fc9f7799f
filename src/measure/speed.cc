#include "measure/speed.h"

#include <fmt/format.h>

#include <algorithm>

#include "measure/real_time.h"
#include "ops/ops.h"

namespace mesh::measure {
namespace {

// Tokens of a stream before its speed counts: all streams have joined the batch by then.
constexpr std::uint32_t kSettled = 4;

// Tokens that a stream is asked for: while the prompts of `count` streams are computed, those that
// came first go on.
std::uint32_t stream_tokens(const SpeedOptions& options, std::uint32_t count) {
  constexpr std::uint32_t kAhead = 4;
  return kSettled + kAhead * count + options.new_tokens;
}
std::uint32_t stream_positions(const SpeedOptions& options, std::uint32_t count) {
  return options.depth + stream_tokens(options, count);
}

// Numbers every request apart, so that no prompt is found in the prefix cache.
class Measurement {
 public:
  Measurement(LocalMesh& mesh, const SpeedOptions& options) : mesh_(mesh), options_(options) {}

  // Seconds to the first token.
  Result<double> prompt(std::uint32_t tokens) {
    const Instant asked = now();
    const LocalMesh::Running running = mesh_.ask(tokens, 1, ++number_);
    MESH_RETURN_IF_ERROR(running.stream->wait_end());
    return to_seconds(running.stream->times().front() - asked);
  }

  struct Round {
    double tokens_per_second = 0;
    double batch = 0;
    std::vector<double> gaps;
  };
  // From the moment at which every stream has settled until the first of them ends.
  Result<Round> streams(std::uint32_t count) {
    std::vector<LocalMesh::Running> running;
    for (std::uint32_t i = 0; i < count; ++i)
      running.push_back(mesh_.ask(options_.depth, stream_tokens(options_, count), ++number_));
    for (const auto& r : running) MESH_RETURN_IF_ERROR(r.stream->wait_end());
    Instant begin{}, end = running.front().stream->times().back();
    for (const auto& r : running) {
      const std::vector<Instant> times = r.stream->times();
      begin = std::max(begin, times[kSettled - 1]);
      end = std::min(end, times.back());
    }
    Round round;
    if (end <= begin)
      return Error(Code::kInvalidArgument,
                   fmt::format("{} streams of {} tokens never run all at once; ask for more tokens",
                               count, options_.new_tokens));
    std::size_t tokens = 0;
    for (const auto& r : running) {
      const std::vector<Instant> times = r.stream->times();
      for (const Instant at : times) tokens += at > begin && at <= end;
      const std::vector<double> gaps = gaps_ms(times, begin, end);
      round.gaps.insert(round.gaps.end(), gaps.begin(), gaps.end());
    }
    round.tokens_per_second = static_cast<double>(tokens) / to_seconds(end - begin);
    round.batch = mean_decode_batch(between(mesh_.records(0), begin, end));
    return round;
  }

 private:
  LocalMesh& mesh_;
  const SpeedOptions& options_;
  std::uint64_t number_ = 0;
};

Result<PromptSpeed> measure_prompt(Measurement& measurement, std::uint32_t tokens,
                                   std::uint32_t repeats) {
  std::vector<double> seconds;
  for (std::uint32_t i = 0; i < repeats; ++i) {
    MESH_ASSIGN_OR_RETURN(const double took, measurement.prompt(tokens));
    seconds.push_back(took);
  }
  const double median = percentile(seconds, 0.5);
  const double best = *std::min_element(seconds.begin(), seconds.end());
  return PromptSpeed{tokens, median * 1000, tokens / median, tokens / best};
}

Result<StreamSpeed> measure_streams(Measurement& measurement, std::uint32_t count,
                                    std::uint32_t repeats) {
  StreamSpeed speed;
  speed.streams = count;
  std::vector<double> rates, batches, gaps;
  for (std::uint32_t i = 0; i < repeats; ++i) {
    MESH_ASSIGN_OR_RETURN(const Measurement::Round round, measurement.streams(count));
    rates.push_back(round.tokens_per_second);
    batches.push_back(round.batch);
    gaps.insert(gaps.end(), round.gaps.begin(), round.gaps.end());
  }
  speed.tokens_per_second = percentile(rates, 0.5);
  speed.fastest = *std::max_element(rates.begin(), rates.end());
  speed.batch = percentile(batches, 0.5);
  speed.gap_ms = percentile(gaps, 0.5);
  speed.gap_p99_ms = percentile(gaps, 0.99);
  return speed;
}

Result<void> check(const LocalMesh& mesh, const SpeedOptions& options) {
  const std::uint32_t context = mesh.shape().context;
  std::uint32_t longest = 0;
  for (const std::uint32_t count : options.streams)
    longest = std::max(longest, stream_positions(options, count));
  for (const std::uint32_t tokens : options.prompts) longest = std::max(longest, tokens + 1);
  if (longest > context)
    return Error(
        Code::kInvalidArgument,
        fmt::format("{} positions are asked for, the model's context is {}", longest, context));
  if (options.repeats == 0 || options.new_tokens < 2)
    return Error(Code::kInvalidArgument, "at least one repeat of at least two tokens is measured");
  return {};
}

}  // namespace

std::uint32_t pages_needed(const SpeedOptions& options) {
  const auto pages = [](std::uint32_t positions) {
    return (positions + ops::kPageTokens - 1) / ops::kPageTokens + 1;
  };
  std::uint32_t most = 1;
  for (const std::uint32_t tokens : options.prompts) most = std::max(most, pages(tokens + 1));
  for (const std::uint32_t count : options.streams)
    most = std::max(most, count * pages(stream_positions(options, count)));
  return most + 1;
}

Result<SpeedReport> measure_speed(LocalMesh& mesh, const SpeedOptions& options) {
  MESH_RETURN_IF_ERROR(check(mesh, options));
  const auto tell = [&](std::string what) {
    if (options.progress) options.progress(what);
  };
  Measurement measurement(mesh, options);
  tell("warming up");
  MESH_RETURN_IF_ERROR(measurement.prompt(options.depth));
  SpeedReport report;
  for (const std::uint32_t tokens : options.prompts) {
    tell(fmt::format("a prompt of {} tokens", tokens));
    MESH_ASSIGN_OR_RETURN(const PromptSpeed speed,
                          measure_prompt(measurement, tokens, options.repeats));
    report.prompts.push_back(speed);
  }
  for (const std::uint32_t count : options.streams) {
    tell(count == 1 ? "one stream" : fmt::format("{} streams", count));
    MESH_ASSIGN_OR_RETURN(const StreamSpeed speed,
                          measure_streams(measurement, count, options.repeats));
    report.streams.push_back(speed);
  }
  return report;
}

}  // namespace mesh::measure
