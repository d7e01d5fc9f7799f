#pragma once
// Covering sets: few rows of factor values in which every pair of values of every two factors
// meets.

#include <cstdint>
#include <vector>

namespace mesh::exactness {

// Rows of values, one per factor, value f in [0, sizes[f]). Greedy and deterministic: the same
// sizes give the same rows.
std::vector<std::vector<int>> pairwise(const std::vector<int>& sizes);

// Every combination, the last factor running fastest.
std::vector<std::vector<int>> product(const std::vector<int>& sizes);

}  // namespace mesh::exactness
