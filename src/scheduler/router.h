#pragma once
// The stages of one request, from the entry's own view.

#include <cstdint>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "scheduler/node_view.h"
#include "wire/messages.h"

namespace mesh::scheduler {

// The plan's stages when they cover [0, layers) and each node is alive, kReady, and holds its range
// in the plan's epoch. Errors: kUnavailable, retryable: "layers 3:6 have no ready node (node b is
// loading)".
Result<std::vector<wire::StageAssignment>> route(const wire::Plan& plan, const Nodes& nodes,
                                                 std::uint32_t layers);

// How many of these stages compute at the same time without taking cores from each other: all,
// unless several stand on one machine with more threads than it has cores. At least 1.
std::size_t stages_at_once(const std::vector<wire::StageAssignment>& stages, const Nodes& nodes);

// Layers that no ready node serves under this plan, ascending, adjacent ranges merged.
std::vector<LayerRange> missing_layers(const wire::Plan& plan, const Nodes& nodes,
                                       std::uint32_t layers);

}  // namespace mesh::scheduler
