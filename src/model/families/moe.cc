#include <fmt/format.h>

#include <cstdint>
#include <set>
#include <vector>

#include "base/limits.h"
#include "model/families/families.h"

namespace mesh::model {

Result<MoeSpec> parse_moe(const ConfigFields& config, const MoeDefaults& defaults,
                          std::uint32_t layers) {
  const char* const spelling = config.has("num_experts") ? "num_experts" : "num_local_experts";
  MoeSpec moe;
  MESH_ASSIGN_OR_RETURN(moe.experts, config.whole(spelling, 0, limits::kExperts, defaults.experts));
  MESH_ASSIGN_OR_RETURN(const std::uint32_t sparse_step,
                        config.whole("decoder_sparse_step", 1, limits::kLayers, 1));
  MESH_ASSIGN_OR_RETURN(const std::vector<std::int64_t> named, config.integers("mlp_only_layers"));
  const std::set<std::int64_t> dense(named.begin(), named.end());
  for (std::uint32_t layer = 0; layer < layers; ++layer)
    if ((layer + 1) % sparse_step != 0 || dense.count(layer) != 0)
      moe.dense_layers.push_back(layer);
  if (moe.experts == 0 || moe.dense_layers.size() == layers) return MoeSpec{};
  MESH_ASSIGN_OR_RETURN(moe.top_k,
                        config.whole("num_experts_per_tok", 1, limits::kExperts, defaults.top_k));
  if (moe.top_k > moe.experts)
    return Error(Code::kInvalidArgument,
                 fmt::format("config.json: num_experts_per_tok is {}, but {} is {}", moe.top_k,
                             spelling, moe.experts));
  MESH_ASSIGN_OR_RETURN(
      moe.intermediate,
      config.whole("moe_intermediate_size", 1, limits::kIntermediate, defaults.intermediate));
  MESH_ASSIGN_OR_RETURN(moe.normalise, config.flag("norm_topk_prob", false));
  return moe;
}

}  // namespace mesh::model
