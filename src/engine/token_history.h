#pragma once
// What a sequence has said so far, as far as penalties look at it.

#include <cstdint>
#include <map>
#include <vector>

#include "base/ids.h"

namespace mesh::engine {

struct TokenHistory {
  std::vector<TokenId> prompt;              // distinct ids, ascending
  std::map<TokenId, std::uint32_t> output;  // how often each was drawn
};

}  // namespace mesh::engine
