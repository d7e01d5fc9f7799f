#pragma once
// Which node holds which layers: contiguous ranges whose work is in proportion to the memory nodes
// offer.

#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "wire/messages.h"

namespace mesh::scheduler {

struct NodeCapacity {
  PeerId id;
  std::uint64_t memory = 0;          // bytes for weights and KV
  std::optional<LayerRange> pinned;  // this range and no other
};

// What a node needs for the layers it holds, in bytes.
struct ModelCost {
  std::vector<std::uint64_t> layer_bytes;  // [layers]
  std::uint64_t embedding_bytes = 0;       // with layer 0
  std::uint64_t head_bytes = 0;            // with the last layer; of a tied head the embedding's
  std::uint64_t kv_bytes_per_layer = 0;    // KV of one layer for one reasonable context

  std::uint32_t layers() const { return static_cast<std::uint32_t>(layer_bytes.size()); }
  // Bytes of one range, embedding, head and KV included: what must fit into a memory.
  std::uint64_t bytes(LayerRange range) const;
  // Bytes that a decode step over the range reads, to which its time is in proportion: the layers
  // and the head. Of the embedding a step reads a row per sequence, of the KV what is filled.
  std::uint64_t work(LayerRange range) const;
};

// Assigns every layer. Pinned nodes get their range first (overlaps: the lower id keeps them, the
// other the longest rest); the gaps go to the other nodes so that work / memory is as equal as
// whole layers allow, never above a node's memory, at least one layer per node used. Nodes beyond
// the number of layers, or too small for any, stay out. `held` is what nodes hold now: nodes keep
// their order along the model, and a cut moves only when the balance gains more than the bytes
// moved cost; the same input with `held` = the result gives the result again. Stages come in layer
// order. Layers that only absent pinned nodes could hold stay uncovered when pinned nodes exist;
// otherwise too little memory is kResourceExhausted naming the missing bytes.
Result<std::vector<wire::StageAssignment>> allocate_layers(
    const ModelCost& cost, std::vector<NodeCapacity> nodes,
    const std::vector<wire::StageAssignment>& held = {});

}  // namespace mesh::scheduler
