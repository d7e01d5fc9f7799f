#pragma once
// What the scheduler sees of the nodes: each one's own record and whether it is linked.

#include <vector>

#include "wire/messages.h"

namespace mesh::scheduler {

struct NodeView {
  wire::NodeRecord record;
  bool alive = false;  // linked to the viewer, or the viewer itself
};

// All known nodes, the viewer included, in any order, at most one entry a node.
using Nodes = std::vector<NodeView>;

// "ready", "loading", … as shown to people.
std::string_view state_name(wire::NodeState state);

}  // namespace mesh::scheduler
