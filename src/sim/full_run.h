#pragma once
// One run of a FullMesh from a seed: clients at random nodes and, if wanted, faults; then the
// faults stop, a full pipeline must stand again, and new requests at every node must succeed.

#include <cstdint>
#include <string>
#include <vector>

#include "sim/full_mesh.h"

namespace mesh::sim {

struct FullRun {
  std::uint32_t nodes = 4;
  std::uint32_t layers = 12;
  std::uint64_t seed = 1;
  std::int64_t seconds = 30;    // of clients and faults
  std::uint32_t requests = 60;  // spread over them
  bool faults = true;           // crashes, cuts, bad links, late joins
  std::uint32_t min_nodes = 1;
  std::uint32_t pages = 0;        // KV pages of each node; 0: enough, mostly
  std::uint32_t answer_max = 60;  // tokens
};

struct FullOutcome {
  Violations violations;
  std::uint64_t trace = 0, events = 0, frames = 0, plans = 0;
  ClientCounts clients;
  Duration settled{};               // from the last fault to a full pipeline
  std::vector<std::string> recent;  // last events of every node, when something was violated
};

FullOutcome run_full(const FullRun& run);

// Faults stop, what lies is started: within kStand a full pipeline stands. Nodes that were cut off
// for long dial again after at most limits::kRedialMax and its spread.
inline constexpr Duration kStand = seconds(45);

}  // namespace mesh::sim
