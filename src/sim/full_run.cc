#include "sim/full_run.h"

#include <algorithm>

#include "base/limits.h"

namespace mesh::sim {
namespace {

class Run {
 public:
  explicit Run(const FullRun& run) : run_(run), random_(splitmix64(run.seed)), mesh_(options()) {}

  FullOutcome play() {
    FullOutcome out;
    begin();
    schedule_requests();
    const Instant end = mesh_.world().now() + seconds(run_.seconds);
    while (mesh_.world().now() < end) {
      mesh_.world().run_for(milliseconds(static_cast<std::int64_t>(20 + random_.below(pace_))));
      if (run_.faults) disturb();
      mesh_.check_running();
    }
    recover(out);
    prove();
    mesh_.finish();
    out.violations = mesh_.violations();
    out.trace = mesh_.world().trace_hash();
    out.events = mesh_.world().events();
    out.frames = mesh_.network().frames();
    out.clients = mesh_.counts();
    for (std::uint32_t n = 1; n <= run_.nodes; ++n)
      if (mesh_.running(n))
        out.plans = std::max(out.plans, mesh_.node(n).membership().plan().epoch.value);
    // One planner makes at most one plan per settling time; more is a quarrel of several.
    check_limit(
        "plans", out.plans,
        static_cast<std::size_t>(mesh_.world().now().time_since_epoch() / limits::kReplanSettle),
        out.violations);
    if (!out.violations.empty()) out.recent = mesh_.recent(30);
    return out;
  }

 private:
  // Half of the seeds have nodes too small to hold the model alone.
  FullMeshOptions options() {
    FullMeshOptions out;
    out.seed = run_.seed;
    out.nodes = run_.nodes;
    out.layers = run_.layers;
    out.min_nodes = run_.min_nodes;
    if (run_.nodes >= 3 && random_.below(2) == 0) {
      // One node may be missing and the rest still holds the model.
      const std::uint32_t each = (run_.layers + run_.nodes - 2) / (run_.nodes - 1);
      out.memory = static_cast<double>(each) / run_.layers;
    }
    // And some run out of pages now and then, or often.
    if (run_.faults && random_.below(4) == 0) out.pages = 40;
    out.slow_readers = 1;
    if (run_.pages > 0) out.pages = run_.pages;
    out.answer_max = run_.answer_max;
    if (run_.pages > 0 || run_.answer_max > 60) out.stall = seconds(60);
    return out;
  }

  void begin() {
    std::uint32_t at_once = run_.nodes;
    if (run_.faults) at_once = 1 + static_cast<std::uint32_t>(random_.below(run_.nodes));
    at_once = std::max(at_once, std::min(run_.min_nodes, run_.nodes));
    for (std::uint32_t n = 1; n <= at_once; ++n) mesh_.start(n);
    if (!run_.faults && !mesh_.settle(seconds(10)))
      mesh_.violations().add("no full pipeline 10 s after the start: " + mesh_.state());
  }

  std::uint32_t any() { return 1 + static_cast<std::uint32_t>(random_.below(run_.nodes)); }

  void schedule_requests() {
    for (std::uint32_t i = 0; i < run_.requests; ++i) {
      const Duration at(static_cast<std::int64_t>(
          random_.unit() * static_cast<double>(seconds(run_.seconds).count())));
      mesh_.world().after(at, [this] {
        const std::uint32_t n = any();
        if (mesh_.running(n)) mesh_.submit_random(n, random_);
      });
    }
  }

  void disturb() {
    const std::uint32_t a = any(), b = any();
    switch (random_.below(12)) {
      case 0:
        if (mesh_.running(a)) mesh_.crash(a, random_.below(2) == 0);
        break;
      case 1:
        if (a != b) mesh_.network().cut(FullMesh::id(a), FullMesh::id(b));
        break;
      case 2:
        if (a != b) mesh_.network().heal(FullMesh::id(a), FullMesh::id(b));
        break;
      case 3:
        if (a != b)
          mesh_.network().set_quality(FullMesh::id(a), FullMesh::id(b),
                                      {milliseconds(static_cast<std::int64_t>(random_.below(40))),
                                       random_.unit(), 1e6 + random_.unit() * 200e6});
        break;
      case 4:
        if (random_.below(3) == 0) split();
        break;
      case 5:
        mesh_.network().heal_all();
        break;
      case 6:
      case 7:
      case 8:
        if (!mesh_.running(a)) mesh_.start(a);
        break;
      default:
        break;
    }
  }

  void split() {
    std::map<PeerId, int> groups;
    for (std::uint32_t n = 1; n <= run_.nodes; ++n)
      groups[FullMesh::id(n)] = static_cast<int>(random_.below(2));
    mesh_.network().partition(groups);
  }

  void recover(FullOutcome& out) {
    const Instant from = mesh_.world().now();
    mesh_.network().heal_all();
    for (std::uint32_t n = 1; n <= run_.nodes; ++n)
      if (!mesh_.running(n)) mesh_.start(n);
    if (!mesh_.settle(kStand))
      mesh_.violations().add(fmt::format("no full pipeline {:.0f} s after the last fault: {}",
                                         to_seconds(kStand), mesh_.state()));
    out.settled = std::max(Duration{}, mesh_.world().now() - from - seconds(1));
    if (!mesh_.drain(patience()))
      mesh_.violations().add(fmt::format("{} requests are open {:.0f} s after the last fault",
                                         mesh_.open_requests(), to_seconds(patience())));
  }

  // Rings over slow links need a third of a second for a token.
  Duration patience() const {
    return seconds(60) + milliseconds(400) * (std::max(run_.answer_max, 60u) - 60);
  }

  // New requests at every node end well, and then nothing is left.
  void prove() {
    const std::size_t before = mesh_.counts().finished;
    for (int round = 0; round < 2; ++round)
      for (std::uint32_t n = 1; n <= run_.nodes; ++n) mesh_.submit_random(n, random_, true);
    if (!mesh_.drain(patience())) mesh_.violations().add("new requests do not end");
    if (mesh_.counts().finished - before != 2 * std::size_t{run_.nodes})
      mesh_.violations().add(fmt::format("{} of {} new requests finished after the last fault",
                                         mesh_.counts().finished - before, 2 * run_.nodes));
    mesh_.world().run_for(seconds(1));
    mesh_.check_idle();
  }

  FullRun run_;
  Prng random_;
  // Milliseconds from fault to fault: dense in some seeds, with time to recover in others.
  std::uint64_t pace_ = random_.below(2) == 0 ? 600 : 4000;
  FullMesh mesh_;
};

}  // namespace

FullOutcome run_full(const FullRun& run) {
  return Run(run).play();
}

}  // namespace mesh::sim
