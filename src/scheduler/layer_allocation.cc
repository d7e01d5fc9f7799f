#include "scheduler/layer_allocation.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/limits.h"

namespace mesh::scheduler {
namespace {

using wire::StageAssignment;

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
// A cut moves when the imbalance (1 is perfect) falls by more than this share of the model's bytes
// that would have to be loaded anew.
constexpr double kMoveWeight = 0.05;
// Up to here the order of nodes is searched exactly (2^n subsets), beyond by two orders that fit
// whenever layers are small beside memories.
constexpr std::size_t kExactNodes = 12;
constexpr int kRounds = 8;

// Bytes and work of ranges of the whole model in O(1).
class Weights {
 public:
  explicit Weights(const ModelCost& cost) : layers_(cost.layers()), cost_(cost) {
    sum_.push_back(0);
    work_sum_.push_back(0);
    for (std::uint64_t bytes : cost.layer_bytes) {
      sum_.push_back(sum_.back() + bytes + cost.kv_bytes_per_layer);
      work_sum_.push_back(work_sum_.back() + bytes);
    }
  }
  std::uint64_t bytes(LayerRange range) const {
    if (range.empty()) return 0;
    std::uint64_t total = sum_[range.end] - sum_[range.begin];
    if (range.begin == 0) total += cost_.embedding_bytes;
    if (range.end == layers_) total += cost_.head_bytes;
    return total;
  }
  std::uint64_t work(LayerRange range) const {
    if (range.empty()) return 0;
    return work_sum_[range.end] - work_sum_[range.begin] +
           (range.end == layers_ ? cost_.head_bytes : 0);
  }
  std::uint32_t layers() const { return layers_; }

 private:
  std::uint32_t layers_;
  const ModelCost& cost_;
  std::vector<std::uint64_t> sum_, work_sum_;
};

LayerRange intersect(LayerRange a, LayerRange b) {
  const LayerRange both{std::max(a.begin, b.begin), std::min(a.end, b.end)};
  return both.empty() ? LayerRange{} : both;
}

// What of [0, layers) none of `stages` (ascending) covers.
std::vector<LayerRange> gaps_between(const std::vector<StageAssignment>& stages,
                                     std::uint32_t layers) {
  std::vector<LayerRange> gaps;
  std::uint32_t next = 0;
  for (const StageAssignment& stage : stages) {
    if (stage.layers.begin > next) gaps.push_back({next, stage.layers.begin});
    next = stage.layers.end;
  }
  if (next < layers) gaps.push_back({next, layers});
  return gaps;
}

void sort_by_layer(std::vector<StageAssignment>& stages) {
  std::sort(stages.begin(), stages.end(), [](const StageAssignment& a, const StageAssignment& b) {
    return a.layers.begin < b.layers.begin;
  });
}

// Layers to be filled, as one line of positions: the gaps one after the other.
class Line {
 public:
  explicit Line(const std::vector<LayerRange>& gaps) {
    for (const LayerRange& gap : gaps) {
      for (std::uint32_t layer = gap.begin; layer < gap.end; ++layer) {
        layer_.push_back(layer);
        gap_end_.push_back(static_cast<std::uint32_t>(layer_.size()) + gap.end - layer - 1);
      }
    }
  }
  std::uint32_t size() const { return static_cast<std::uint32_t>(layer_.size()); }
  // First position behind the gap of position `at`.
  std::uint32_t gap_end(std::uint32_t at) const { return gap_end_[at]; }
  LayerRange range(std::uint32_t begin, std::uint32_t end) const {
    return {layer_[begin], layer_[end - 1] + 1};
  }

 private:
  std::vector<std::uint32_t> layer_, gap_end_;
};

struct Fill {
  const Weights& weights;
  const Line& line;
  const std::vector<StageAssignment>& held;

  // Furthest position that a node with `memory` reaches from `from` within one gap.
  std::uint32_t reach(std::uint32_t from, std::uint64_t memory) const {
    std::uint32_t to = from;
    while (from < line.size() && to < line.gap_end(from) &&
           weights.bytes(line.range(from, to + 1)) <= memory)
      ++to;
    return to;
  }
  LayerRange held_by(PeerId id) const {
    for (const StageAssignment& stage : held)
      if (stage.node == id) return stage.layers;
    return {};
  }
};

// The fewest bytes by which `nodes`, in this order, each taking as much as it can, fail to hold the
// line; 0 when they do.
std::uint64_t missing_in_order(const Fill& fill, const std::vector<NodeCapacity>& nodes) {
  std::uint32_t at = 0;
  for (const NodeCapacity& node : nodes) at = fill.reach(at, node.memory);
  std::uint64_t missing = 0;
  while (at < fill.line.size()) {
    const std::uint32_t end = fill.line.gap_end(at);
    missing += fill.weights.bytes(fill.line.range(at, end));
    at = end;
  }
  return missing;
}

// An order of `nodes` in which they can hold the line, for small n found whenever there is one:
// best[mask] is the furthest position that the nodes of mask reach, and reaching further is never
// worse. `missing` is set when there is none.
bool find_order(const Fill& fill, std::vector<NodeCapacity>& nodes, std::uint64_t& missing) {
  missing = missing_in_order(fill, nodes);
  if (missing == 0) return true;
  const auto attempt = [&](std::vector<NodeCapacity> order) {
    const std::uint64_t now = missing_in_order(fill, order);
    missing = std::min(missing, now);
    if (now == 0) nodes = std::move(order);
    return now == 0;
  };
  const std::size_t n = nodes.size();
  if (n > kExactNodes) {
    std::vector<NodeCapacity> order = nodes;
    std::stable_sort(order.begin(), order.end(), [](const NodeCapacity& a, const NodeCapacity& b) {
      return a.memory > b.memory;
    });
    if (attempt(order)) return true;
    std::reverse(order.begin(), order.end());
    return attempt(order);
  }
  std::vector<std::uint32_t> best(std::size_t{1} << n, 0);
  std::vector<std::uint8_t> last(best.size(), 0);
  for (std::size_t mask = 1; mask < best.size(); ++mask) {
    best[mask] = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if ((mask >> i & 1) == 0) continue;
      const std::uint32_t to = fill.reach(best[mask ^ (std::size_t{1} << i)], nodes[i].memory);
      if (to < best[mask] || (to == best[mask] && best[mask] != 0)) continue;
      best[mask] = to;
      last[mask] = static_cast<std::uint8_t>(i);
    }
  }
  std::vector<NodeCapacity> order;
  for (std::size_t mask = best.size() - 1; mask != 0; mask ^= std::size_t{1} << last[mask])
    order.push_back(nodes[last[mask]]);
  std::reverse(order.begin(), order.end());
  return attempt(std::move(order));
}

// Splits the line over nodes in this order. Minimises the sum of work² / memory, which is least
// when work is in proportion to memory, plus the weighted bytes that move; with `all` every node
// gets at least one layer. Nothing when impossible.
std::optional<std::vector<StageAssignment>> split(const Fill& fill,
                                                  const std::vector<NodeCapacity>& nodes,
                                                  bool all) {
  const std::uint32_t size = fill.line.size();
  const std::size_t n = nodes.size();
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  double total_bytes = 0, total_work = 0, memory = 0;
  for (std::uint32_t at = 0; at < size; at = fill.line.gap_end(at)) {
    const LayerRange gap = fill.line.range(at, fill.line.gap_end(at));
    total_bytes += static_cast<double>(fill.weights.bytes(gap));
    total_work += static_cast<double>(fill.weights.work(gap));
  }
  for (const NodeCapacity& node : nodes) memory += static_cast<double>(node.memory);
  total_bytes = std::max(total_bytes, 1.0);
  total_work = std::max(total_work, 1.0);

  std::vector<std::vector<double>> cost(n + 1, std::vector<double>(size + 1, kInfinite));
  std::vector<std::vector<std::uint32_t>> from(n + 1, std::vector<std::uint32_t>(size + 1, kNone));
  cost[0][0] = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const LayerRange had = fill.held_by(nodes[i].id);
    const double share = static_cast<double>(nodes[i].memory) / memory;
    for (std::uint32_t begin = 0; begin <= size; ++begin) {
      if (cost[i][begin] == kInfinite) continue;
      if (!all && cost[i][begin] < cost[i + 1][begin]) {
        cost[i + 1][begin] = cost[i][begin];
        from[i + 1][begin] = begin;
      }
      if (begin == size) continue;
      for (std::uint32_t end = begin + 1; end <= fill.line.gap_end(begin); ++end) {
        const LayerRange range = fill.line.range(begin, end);
        const std::uint64_t bytes = fill.weights.bytes(range);
        if (bytes > nodes[i].memory) break;
        const double load = static_cast<double>(fill.weights.work(range)) / total_work;
        const double moved =
            static_cast<double>(bytes - fill.weights.bytes(intersect(range, had))) / total_bytes;
        const double sum = cost[i][begin] + load * load / share + kMoveWeight * moved;
        if (sum < cost[i + 1][end]) {
          cost[i + 1][end] = sum;
          from[i + 1][end] = begin;
        }
      }
    }
  }
  if (cost[n][size] == kInfinite) return std::nullopt;
  std::vector<StageAssignment> stages;
  std::uint32_t end = size;
  for (std::size_t i = n; i-- > 0;) {
    const std::uint32_t begin = from[i + 1][end];
    if (begin != end) stages.push_back({nodes[i].id, fill.line.range(begin, end)});
    end = begin;
  }
  std::reverse(stages.begin(), stages.end());
  return stages;
}

// Ranges of the pinned nodes that fit, lower ids first; `refused` gets the first that is too small.
std::vector<StageAssignment> place_pinned(const Weights& weights,
                                          const std::vector<NodeCapacity>& pinned,
                                          const NodeCapacity** refused) {
  std::vector<StageAssignment> stages;
  for (const NodeCapacity& node : pinned) {
    const LayerRange wanted = intersect(*node.pinned, {0, weights.layers()});
    if (wanted.empty()) continue;
    if (weights.bytes(wanted) > node.memory) {
      if (*refused == nullptr) *refused = &node;
      continue;
    }
    LayerRange best;
    for (const LayerRange& gap : gaps_between(stages, weights.layers())) {
      const LayerRange part = intersect(gap, wanted);
      if (part.size() > best.size()) best = part;
    }
    if (best.empty() || stages.size() >= limits::kRouteStages) continue;
    stages.push_back({node.id, best});
    sort_by_layer(stages);
  }
  return stages;
}

// Nodes that can hold something, in the order of what they hold now, the others behind by id; at
// most `most` of them, the largest.
std::vector<NodeCapacity> usable(const Fill& fill, std::vector<NodeCapacity> nodes,
                                 std::size_t most) {
  const auto too_small = [&](const NodeCapacity& node) {
    for (std::uint32_t at = 0; at < fill.line.size(); ++at)
      if (fill.reach(at, node.memory) > at) return false;
    return true;
  };
  nodes.erase(std::remove_if(nodes.begin(), nodes.end(), too_small), nodes.end());
  if (nodes.size() > most) {
    const auto larger = [&](const NodeCapacity& a, const NodeCapacity& b) {
      const bool a_held = !fill.held_by(a.id).empty(), b_held = !fill.held_by(b.id).empty();
      return std::tuple(b.memory, b_held, a.id) < std::tuple(a.memory, a_held, b.id);
    };
    std::sort(nodes.begin(), nodes.end(), larger);
    nodes.resize(most);
  }
  const auto earlier = [&](const NodeCapacity& a, const NodeCapacity& b) {
    const LayerRange x = fill.held_by(a.id), y = fill.held_by(b.id);
    return std::tuple(x.empty() ? kNone : x.begin, a.id) <
           std::tuple(y.empty() ? kNone : y.begin, b.id);
  };
  std::sort(nodes.begin(), nodes.end(), earlier);
  return nodes;
}

// Fills `gaps`; nothing (and how many bytes are missing) when the nodes cannot.
std::optional<std::vector<StageAssignment>> fill_gaps(const Weights& weights,
                                                      const std::vector<LayerRange>& gaps,
                                                      const std::vector<NodeCapacity>& free,
                                                      const std::vector<StageAssignment>& held,
                                                      std::size_t most, std::uint64_t& missing) {
  const Line line(gaps);
  if (line.size() == 0) return std::vector<StageAssignment>{};
  const Fill fill{weights, line, held};
  std::vector<NodeCapacity> nodes = usable(fill, free, std::min<std::size_t>(most, line.size()));
  if (auto stages = split(fill, nodes, true)) return stages;
  // Not every node can have a part where it stands: another order, then without some.
  if (!find_order(fill, nodes, missing)) return std::nullopt;
  if (auto stages = split(fill, nodes, true)) return stages;
  return split(fill, nodes, false);
}

// `nodes` ascend by id.
Result<std::vector<StageAssignment>> allocate_once(const ModelCost& cost,
                                                   const std::vector<NodeCapacity>& nodes,
                                                   const std::vector<StageAssignment>& held) {
  const std::uint32_t layers = cost.layers();
  const Weights weights(cost);
  std::vector<NodeCapacity> pinned, free;
  for (const NodeCapacity& node : nodes) (node.pinned ? pinned : free).push_back(node);

  const NodeCapacity* refused = nullptr;
  std::vector<StageAssignment> stages = place_pinned(weights, pinned, &refused);
  std::vector<LayerRange> gaps = gaps_between(stages, layers);
  const std::size_t most = limits::kRouteStages - stages.size();
  std::uint64_t missing = weights.bytes({0, layers});
  std::optional<std::vector<StageAssignment>> filled;
  while (!(filled = fill_gaps(weights, gaps, free, held, most, missing))) {
    if (refused != nullptr)
      return Error(
          Code::kResourceExhausted,
          fmt::format("node {} is pinned to layers {}, which need {} bytes, and offers {}: {} "
                      "bytes are missing",
                      refused->id.short_name(), refused->pinned->to_string(),
                      weights.bytes(intersect(*refused->pinned, {0, layers})), refused->memory,
                      weights.bytes(intersect(*refused->pinned, {0, layers})) - refused->memory));
    if (pinned.empty()) {
      std::uint64_t offered = 0;
      for (const NodeCapacity& node : nodes) offered += node.memory;
      return Error(Code::kResourceExhausted,
                   fmt::format("the model needs {} bytes, {} nodes offer {}: {} bytes are missing",
                               weights.bytes({0, layers}), nodes.size(), offered, missing));
    }
    // Absent pinned nodes own some of it: leave out the lightest gap until the rest fits.
    gaps.erase(
        std::min_element(gaps.begin(), gaps.end(), [&](const LayerRange& a, const LayerRange& b) {
          return weights.bytes(a) < weights.bytes(b);
        }));
  }
  stages.insert(stages.end(), filled->begin(), filled->end());
  sort_by_layer(stages);
  return stages;
}

}  // namespace

std::uint64_t ModelCost::bytes(LayerRange range) const {
  return Weights(*this).bytes(range);
}

std::uint64_t ModelCost::work(LayerRange range) const {
  return Weights(*this).work(range);
}

Result<std::vector<StageAssignment>> allocate_layers(const ModelCost& cost,
                                                     std::vector<NodeCapacity> nodes,
                                                     const std::vector<StageAssignment>& held) {
  if (cost.layers() == 0 || cost.layers() > limits::kLayers)
    return Error(Code::kInvalidArgument, fmt::format("a model of {} layers", cost.layers()));
  std::sort(nodes.begin(), nodes.end(),
            [](const NodeCapacity& a, const NodeCapacity& b) { return a.id < b.id; });
  MESH_ASSIGN_OR_RETURN(std::vector<StageAssignment> stages, allocate_once(cost, nodes, held));
  // A first result may have reordered nodes; seen from there another one may be better still.
  for (int round = 0; round < kRounds; ++round) {
    MESH_ASSIGN_OR_RETURN(std::vector<StageAssignment> again, allocate_once(cost, nodes, stages));
    if (again == stages) break;
    stages = std::move(again);
  }
  return stages;
}

}  // namespace mesh::scheduler
