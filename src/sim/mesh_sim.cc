// mesh_sim: meshes from a seed with crashes, restarts, cuts and partitions; then faults stop and
// the mesh must stand again. Plain: control planes alone, thousands of nodes. --full: whole nodes
// that serve clients (sim/full_run.h).

#include <CLI/CLI.hpp>
#include <fstream>

#include "base/version.h"
#include "sim/checkers.h"
#include "sim/control_mesh.h"
#include "sim/full_run.h"

namespace {

using namespace mesh;       // NOLINT: a program of one file
using namespace mesh::sim;  // NOLINT

struct Options {
  bool full = false;
  std::uint32_t requests = 60;
  std::string faults = "on";
  std::uint32_t min_nodes = 1;
  std::uint32_t pages = 0;
  std::uint32_t answer_max = 60;
  std::uint32_t nodes = 10;
  std::uint32_t layers = 24;
  std::uint64_t seed = 1;
  std::uint64_t seeds = 1;
  std::int64_t seconds = 120;
};

struct Outcome {
  Violations violations;
  std::uint64_t trace = 0, events = 0, frames = 0;
};

// One random fault, or one repair.
void disturb(ControlMesh& mesh, Prng& random, std::uint32_t nodes, EpochChecker& epochs) {
  const auto any = [&] { return 1 + static_cast<std::uint32_t>(random.below(nodes)); };
  const std::uint32_t a = any(), b = any();
  const std::string name = fmt::format("n{:04}", a);
  switch (random.below(6)) {
    case 0:
    case 1:
      if (!mesh.running(name)) break;
      mesh.crash(name, random.below(2) == 0);
      epochs.restarted(name);
      return;
    case 2:
      if (a != b) mesh.network().cut(ControlMesh::id(a), ControlMesh::id(b));
      return;
    case 3: {
      std::map<PeerId, int> groups;
      for (std::uint32_t n = 1; n <= nodes; ++n)
        groups[ControlMesh::id(n)] = static_cast<int>(random.below(2));
      mesh.network().partition(groups);
      return;
    }
    default:
      mesh.network().heal_all();
      break;
  }
  if (!mesh.running(name)) mesh.start(name);
}

Outcome simulate(const Options& options, std::uint64_t seed) {
  Outcome out;
  ControlMesh mesh(seed);
  Prng random(splitmix64(seed));
  EpochChecker epochs(out.violations);
  for (std::uint32_t n = 1; n <= options.nodes; ++n) {
    mesh.define(ControlMesh::uniform(n, options.layers));
    mesh.start(fmt::format("n{:04}", n));
  }
  const Instant end = mesh.world().now() + seconds(options.seconds);
  while (mesh.world().now() < end) {
    mesh.world().run_for(milliseconds(static_cast<std::int64_t>(random.below(3000))));
    disturb(mesh, random, options.nodes, epochs);
    for (const std::string& name : mesh.names())
      if (mesh.running(name)) epochs.seen(name, mesh.node(name).membership().plan().epoch);
  }
  // Faults stop: a full pipeline must stand again, and stay.
  mesh.network().heal_all();
  for (const std::string& name : mesh.names())
    if (!mesh.running(name)) mesh.start(name);
  int steady = 0;
  for (int i = 0; i < 900 && steady < 10; ++i) {
    mesh.world().run_for(milliseconds(100));
    steady = mesh.converged() ? steady + 1 : 0;
  }
  if (steady < 10)
    out.violations.add("no full pipeline 90 s after the last fault: " + mesh.state());
  if (steady >= 10) {
    scheduler::Nodes truth;
    for (const std::string& name : mesh.names())
      truth.push_back({mesh.node(name).membership().own(), true});
    for (const std::string& name : mesh.names())
      check_route(*mesh.node(name).route(), mesh.node(name).membership().plan().epoch,
                  options.layers, truth, out.violations);
  }
  out.trace = mesh.world().trace_hash();
  out.events = mesh.world().events();
  out.frames = mesh.network().frames();
  return out;
}

FullRun full_run(const Options& options, std::uint64_t seed) {
  FullRun run;
  run.nodes = options.nodes;
  run.layers = options.layers;
  run.seed = seed;
  run.seconds = options.seconds;
  run.requests = options.requests;
  run.faults = options.faults == "on";
  run.min_nodes = options.min_nodes;
  run.pages = options.pages;
  run.answer_max = options.answer_max;
  return run;
}

void print_full(const FullOutcome& outcome) {
  std::string failed;
  for (const auto& [code, count] : outcome.clients.failed)
    failed += fmt::format("{}{} {}", failed.empty() ? "" : ", ", count, code);
  fmt::print(
      "  requests {} finished {} failed {} ({}) cancelled {} lost {} tokens {} preemptions {} "
      "parked {} replays {} plans {} stands after {:.1f} s\n",
      outcome.clients.submitted, outcome.clients.finished,
      outcome.clients.submitted - outcome.clients.finished - outcome.clients.cancelled -
          outcome.clients.lost,
      failed, outcome.clients.cancelled, outcome.clients.lost, outcome.clients.tokens,
      outcome.clients.preemptions, outcome.clients.parked, outcome.clients.replays, outcome.plans,
      to_seconds(outcome.settled));
  for (const std::string& event : outcome.recent) fmt::print("    {}\n", event);
}

// Sums over all seeds, and the slowest return to a full pipeline.
struct Totals {
  ClientCounts clients;
  Duration slowest{};
  std::uint64_t slowest_seed = 0;

  void add(const FullOutcome& outcome, std::uint64_t seed) {
    clients.submitted += outcome.clients.submitted;
    clients.finished += outcome.clients.finished;
    clients.cancelled += outcome.clients.cancelled;
    clients.lost += outcome.clients.lost;
    clients.tokens += outcome.clients.tokens;
    clients.preemptions += outcome.clients.preemptions;
    clients.parked += outcome.clients.parked;
    clients.replays += outcome.clients.replays;
    for (const auto& [code, count] : outcome.clients.failed) clients.failed[code] += count;
    if (outcome.settled <= slowest) return;
    slowest = outcome.settled;
    slowest_seed = seed;
  }
  void print(std::uint64_t seeds, int bad) const {
    std::string failed;
    for (const auto& [code, count] : clients.failed) failed += fmt::format(", {} {}", count, code);
    fmt::print(
        "ALL {} seeds, {} bad: {} requests, {} finished, {} cancelled, {} lost{}; {} tokens, {} "
        "preemptions, {} parked, {} replays; slowest stand {:.1f} s (seed {})\n",
        seeds, bad, clients.submitted, clients.finished, clients.cancelled, clients.lost, failed,
        clients.tokens, clients.preemptions, clients.parked, clients.replays, to_seconds(slowest),
        slowest_seed);
  }
};

Outcome simulate_full(const Options& options, std::uint64_t seed, Totals* totals) {
  FullOutcome full = run_full(full_run(options, seed));
  if (totals != nullptr) {
    print_full(full);
    totals->add(full, seed);
  }
  return {std::move(full.violations), full.trace, full.events, full.frames};
}

void add_options(CLI::App& app, Options& options) {
  app.add_flag("--full", options.full, "whole nodes and clients, not control planes alone");
  app.add_option("--nodes", options.nodes, "nodes")->check(CLI::Range(1u, 10000u));
  app.add_option("--layers", options.layers, "layers of the model")->check(CLI::Range(1u, 1024u));
  app.add_option("--seed", options.seed, "first seed");
  app.add_option("--seeds", options.seeds, "how many seeds; each tenth runs twice");
  app.add_option("--seconds", options.seconds, "virtual seconds of faults per seed");
  app.add_option("--requests", options.requests, "with --full: clients per seed");
  app.add_option("--faults", options.faults, "with --full: on or off")
      ->check(CLI::IsMember({"on", "off"}));
  app.add_option("--min-nodes", options.min_nodes, "with --full: nodes before the first plan");
  app.add_option("--pages", options.pages, "with --full: KV pages of each node, 0: enough, mostly");
  app.add_option("--answer-max", options.answer_max, "with --full: tokens of the longest answer")
      ->check(CLI::Range(1u, 2000u));
}

std::string replay_command(const Options& options) {
  std::string out = fmt::format("mesh_sim --nodes {} --layers {} --seconds {}", options.nodes,
                                options.layers, options.seconds);
  if (options.full)
    out += fmt::format(
        " --full --requests {} --faults {} --min-nodes {} --pages {} --answer-max {}",
        options.requests, options.faults, options.min_nodes, options.pages, options.answer_max);
  return out;
}

// Returns how many seeds violated something.
int run(const Options& options) {
  const std::string replay = replay_command(options);
  int bad = 0;
  Totals totals;
  for (std::uint64_t seed = options.seed; seed < options.seed + options.seeds; ++seed) {
    fmt::print("SEED {} version {} replay: {} --seed {}\n", seed, engine_version(), replay, seed);
    const auto play = [&](bool first) {
      return options.full ? simulate_full(options, seed, first ? &totals : nullptr)
                          : simulate(options, seed);
    };
    Outcome outcome = play(true);
    if (seed % 10 == 0 && play(false).trace != outcome.trace)
      outcome.violations.add("the same seed gave another trace");
    for (const std::string& sentence : outcome.violations.all()) fmt::print("  {}\n", sentence);
    fmt::print("  trace {:016x} events {} frames {} violations {}\n", outcome.trace, outcome.events,
               outcome.frames, outcome.violations.count());
    bad += outcome.violations.empty() ? 0 : 1;
  }
  if (options.full && options.seeds > 1) totals.print(options.seeds, bad);
  return bad;
}

// Every line of the file that is not a comment holds the options of one run.
int run_file(const std::string& path) {
  std::ifstream in(path);
  int bad = 0, lines = 0;
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line[0] == '#') continue;
    ++lines;
    Options options;
    CLI::App app;
    add_options(app, options);
    try {
      app.parse(line, false);
    } catch (const CLI::Error& error) {
      fmt::print("{}: {}: {}\n", path, line, error.what());
      return 1;
    }
    bad += run(options);
  }
  if (lines == 0) fmt::print("{} holds no seeds\n", path);
  return lines == 0 ? 1 : bad;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  std::string file;
  CLI::App app("Simulates a mesh from a seed");
  add_options(app, options);
  app.add_option("--seed-file", file, "runs the options in each line of this file instead");
  CLI11_PARSE(app, argc, argv);
  return (file.empty() ? run(options) : run_file(file)) == 0 ? 0 : 1;
}
