#include "pipeline/ring_pacer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <functional>
#include <queue>
#include <string>
#include <vector>

#include "base/random.h"

namespace mesh::pipeline {
namespace {

Instant at(double ms) {
  return Instant(Duration(static_cast<Duration::rep>(ms * 1e6)));
}
Duration span_of(double ms) {
  return at(ms).time_since_epoch();
}

std::vector<SequenceId> ids(std::uint64_t from, std::uint64_t to) {
  std::vector<SequenceId> out;
  for (std::uint64_t id = from; id < to; ++id) out.push_back(SequenceId{id});
  return out;
}

// A step of `rows` generations takes base + each · rows ms.
struct StageTime {
  double base = 0, each = 0;
  double time(std::size_t rows) const { return base + each * static_cast<double>(rows); }
};

struct RingOptions {
  std::vector<StageTime> stages;
  double link = 0;  // ms, one way, the way back from the last stage included
  std::size_t sequences = 8;
  bool paced = true;
  double noise = 0;
  double hiccup_every = 0;  // ms between steps that take ten times as long
};

struct RingReport {
  std::vector<double> busy;  // share of the measured time, per stage
  double tokens_per_second = 0;
  double batches = 0;  // mean number of rows that stage 0 ran together, inverted: streams / rows
  double busiest() const { return *std::max_element(busy.begin(), busy.end()); }
};

// Stages and links as events in order of time. Every stage runs what waits at it, stage 0 at most
// its cap. All sequences start in one batch: the convoy.
class Ring {
 public:
  explicit Ring(const RingOptions& options) : options_(options), random_(7) {
    stages_.resize(options.stages.size());
    report_.busy.resize(options.stages.size());
    for (const SequenceId id : ids(0, options.sequences)) stages_[0].waiting.push_back(id);
  }

  RingReport run(double warm_up, double measured) {
    measure_from_ = warm_up;
    end_ = warm_up + measured;
    pump(0);
    while (!events_.empty() && events_.top().time < end_) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.time;
      event.what();
    }
    for (double& busy : report_.busy) busy /= measured;
    report_.tokens_per_second = tokens_ / measured * 1e3;
    report_.batches = steps_ == 0 ? 0 : static_cast<double>(options_.sequences) * steps_ / rows_;
    return report_;
  }
  const RingPacer& pacer() const { return pacer_; }

 private:
  struct Event {
    double time;
    std::uint64_t number;
    std::function<void()> what;
    bool operator<(const Event& other) const {
      return time != other.time ? time > other.time : number > other.number;
    }
  };
  struct Stage {
    std::deque<SequenceId> waiting;
    bool busy = false;
  };

  void after(double delay, std::function<void()> what) {
    events_.push({now_ + delay, events_made_++, std::move(what)});
  }

  void pump(std::size_t index) {
    Stage& stage = stages_[index];
    if (stage.busy || stage.waiting.empty()) return;
    std::size_t rows = stage.waiting.size();
    if (index == 0 && options_.paced) rows = std::min(rows, pacer_.decode_cap(options_.sequences));
    const std::vector<SequenceId> batch(stage.waiting.begin(),
                                        stage.waiting.begin() + static_cast<std::ptrdiff_t>(rows));
    stage.waiting.erase(stage.waiting.begin(),
                        stage.waiting.begin() + static_cast<std::ptrdiff_t>(rows));
    stage.busy = true;
    double took =
        options_.stages[index].time(rows) * random_.range(1 - options_.noise, 1 + options_.noise);
    if (options_.hiccup_every > 0 && now_ >= next_hiccup_) {
      took *= 10;
      next_hiccup_ = now_ + options_.hiccup_every;
    }
    const double from = std::max(now_, measure_from_), to = std::min(now_ + took, end_);
    report_.busy[index] += std::max(0.0, to - from);
    if (index == 0 && now_ >= measure_from_) {
      steps_ += 1;
      rows_ += static_cast<double>(rows);
    }
    after(took, [this, index, batch, took] { done(index, batch, took); });
  }

  void done(std::size_t index, const std::vector<SequenceId>& batch, double took) {
    stages_[index].busy = false;
    if (index == 0) {
      pacer_.step(batch.size(), span_of(took));
      pacer_.sent(batch, at(now_));
    }
    const std::size_t next = (index + 1) % stages_.size();
    const double link = stages_.size() == 1 ? 0 : options_.link;
    after(link, [this, next, batch] { arrive(next, batch); });
    pump(index);
  }

  void arrive(std::size_t index, const std::vector<SequenceId>& batch) {
    for (const SequenceId id : batch) {
      stages_[index].waiting.push_back(id);
      if (index != 0) continue;
      pacer_.returned(id, at(now_));
      if (now_ >= measure_from_) tokens_ += 1;
    }
    pump(index);
  }

  RingOptions options_;
  Prng random_;
  RingPacer pacer_;
  std::vector<Stage> stages_;
  std::priority_queue<Event> events_;
  std::uint64_t events_made_ = 0;
  double now_ = 0, measure_from_ = 0, end_ = 0, next_hiccup_ = 500;
  double tokens_ = 0, steps_ = 0, rows_ = 0;
  RingReport report_;
};

struct Case {
  const char* name;
  RingOptions options;
  double least;  // busy share of the busiest stage
};

TEST(RingPacer, LeavesTheConvoyAndKeepsTheBottleneckBusy) {
  const StageTime flat{8, 0.25}, even{2, 1}, linear{0, 1.25};
  const std::vector<Case> cases = {
      {"2 equal stages, flat steps", {{flat, flat}, 0.2}, 0.85},
      {"2 equal stages, even steps", {{even, even}, 0.2}, 0.85},
      {"2 equal stages, linear steps", {{linear, linear}, 0.2}, 0.85},
      {"2 equal stages, noise", {{even, even}, 0.2, 8, true, 0.1}, 0.85},
      {"2 equal stages, hiccups", {{even, even}, 0.2, 8, true, 0.1, 700}, 0.85},
      {"2 equal stages, 9 streams", {{even, even}, 0.2, 9}, 0.85},
      {"2 equal stages, 64 streams", {{{8, 0.1}, {8, 0.1}}, 0.2, 64}, 0.85},
      {"3 equal stages", {{even, even, even}, 0.2}, 0.85},
      // Three batches of 3, 3 and 2 streams: 8 rows of work in the time that 9 take, and the links.
      {"3 equal stages, linear", {{linear, linear, linear}, 0.2}, 0.84},
      {"3 equal stages, 9 streams", {{linear, linear, linear}, 0.2, 9}, 0.9},
      {"slow first stage", {{{4, 2}, even}, 0.2}, 0.85},
      {"slow last stage", {{even, {4, 2}}, 0.2}, 0.85},
      {"slow last stage, linear", {{linear, {0, 2.5}}, 0.2}, 0.85},
      {"slow link", {{flat, flat}, 5}, 0.85},
      {"slow link, 3 stages", {{flat, flat, flat}, 5, 16}, 0.85},
  };
  std::printf("%-30s %9s %9s | %9s %9s %7s\n", "", "convoy", "tokens/s", "paced", "tokens/s",
              "batches");
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    RingOptions convoy = c.options;
    convoy.paced = false;
    const RingReport before = Ring(convoy).run(5'000, 10'000);
    const RingReport after = Ring(c.options).run(5'000, 10'000);
    std::printf("%-30s %8.0f%% %9.0f | %8.0f%% %9.0f %7.1f\n", c.name, before.busiest() * 100,
                before.tokens_per_second, after.busiest() * 100, after.tokens_per_second,
                after.batches);
    EXPECT_GE(after.busiest(), c.least);
    EXPECT_GE(after.tokens_per_second, 0.9 * before.tokens_per_second);
  }
}

TEST(RingPacer, OneStageAloneRunsAllStreamsTogether) {
  RingOptions options;
  options.stages = {{8, 0.25}};
  EXPECT_NEAR(Ring(options).run(5'000, 5'000).batches, 1.0, 0.05);
}

TEST(RingPacer, CapsByTheRatioOfRingAndStep) {
  RingPacer pacer;
  EXPECT_EQ(pacer.decode_cap(0), 1u);
  EXPECT_EQ(pacer.decode_cap(8), 8u);
  double now = 1'000;
  const auto lap = [&](double step, double ring, std::size_t rows) {
    pacer.step(rows, span_of(step));
    const auto batch = ids(0, rows);
    pacer.sent(batch, at(now));
    EXPECT_EQ(pacer.in_flight(), 1u);
    now += ring;
    for (const SequenceId id : batch) pacer.returned(id, at(now));
    EXPECT_EQ(pacer.in_flight(), 0u);
  };
  lap(10, 30, 8);
  EXPECT_EQ(pacer.batches(8), 4u);
  EXPECT_EQ(pacer.decode_cap(8), 2u);
  EXPECT_EQ(pacer.decode_cap(9), 3u);
  EXPECT_EQ(pacer.decode_cap(9, 2), 5u);  // no more than can be computed at the same time
  EXPECT_EQ(pacer.decode_cap(9, 1), 9u);
  EXPECT_EQ(pacer.decode_cap(9, 7), 3u);
  EXPECT_EQ(pacer.decode_cap(3), 1u);
  EXPECT_EQ(pacer.decode_cap(1), 1u);
  // A batch that stood in a queue says nothing.
  lap(10, 300, 8);
  EXPECT_EQ(pacer.batches(8), 4u);
  lap(10, 11, 8);
  EXPECT_EQ(pacer.batches(8), 2u);
  // What was true is forgotten after 4 s at the latest.
  for (int i = 0; i < 110; ++i) lap(10, 40, 8);
  EXPECT_EQ(pacer.batches(8), 5u);
  // After a pause only the present counts.
  now += 60'000;
  lap(10, 20, 8);
  EXPECT_EQ(pacer.batches(8), 3u);
}

TEST(RingPacer, StepsOfNoTimeGiveNoCap) {
  RingPacer pacer;
  for (int i = 0; i < 20; ++i) {
    pacer.step(8, Duration::zero());
    pacer.sent(ids(0, 8), at(i));
    for (const SequenceId id : ids(0, 8)) pacer.returned(id, at(i));
  }
  EXPECT_EQ(pacer.decode_cap(8), 8u);
}

TEST(RingPacer, CountsBatchesThatAreOut) {
  RingPacer pacer;
  pacer.sent(ids(0, 2), at(0));
  pacer.sent(ids(2, 4), at(1));
  pacer.sent({}, at(1));
  EXPECT_EQ(pacer.in_flight(), 2u);
  pacer.returned(SequenceId{0}, at(2));
  pacer.returned(SequenceId{0}, at(2));
  pacer.returned(SequenceId{99}, at(2));
  EXPECT_EQ(pacer.in_flight(), 2u);
  pacer.dropped(SequenceId{1});
  EXPECT_EQ(pacer.in_flight(), 1u);
  pacer.sent(ids(2, 5), at(3));
  EXPECT_EQ(pacer.in_flight(), 1u);
  pacer.sent({{SequenceId{7}, SequenceId{7}}}, at(3));
  pacer.returned(SequenceId{7}, at(4));
  EXPECT_EQ(pacer.in_flight(), 1u);
  for (const SequenceId id : ids(0, 9)) pacer.dropped(id);
  EXPECT_EQ(pacer.in_flight(), 0u);
}

TEST(RingPacer, AnyOrderOfCallsKeepsItsBounds) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Prng random(seed);
    RingPacer pacer;
    double now = 0;
    for (int i = 0; i < 400; ++i) {
      now += random.range(-1, 300);
      const std::uint64_t from = random.below(20);
      switch (random.below(4)) {
        case 0:
          pacer.step(random.below(20), span_of(random.range(-1, 50)));
          break;
        case 1:
          pacer.sent(ids(from, from + random.below(8)), at(now));
          break;
        case 2:
          pacer.returned(SequenceId{from}, at(now));
          break;
        default:
          pacer.dropped(SequenceId{from});
      }
      const std::size_t running = random.below(40), cap = pacer.decode_cap(running);
      ASSERT_GE(cap, 1u);
      ASSERT_LE(cap, std::max<std::size_t>(1, running));
      ASSERT_LE(pacer.batches(running), std::max<std::size_t>(1, running));
      ASSERT_LE(pacer.in_flight(), 28u);
    }
    for (const SequenceId id : ids(0, 40)) pacer.dropped(id);
    ASSERT_EQ(pacer.in_flight(), 0u);
  }
}

}  // namespace
}  // namespace mesh::pipeline
