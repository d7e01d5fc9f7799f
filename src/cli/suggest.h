#pragma once
// "Did you mean …?"

#include <string>
#include <string_view>
#include <vector>

namespace mesh::cli {

// The word with the smallest edit distance (insertions, deletions, substitutions, swaps of
// neighbours), if that is small against its length; else "". Source: Damerau 1964, restricted
// distance.
std::string closest_word(std::string_view typed, const std::vector<std::string>& words);

}  // namespace mesh::cli
