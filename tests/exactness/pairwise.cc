#include "pairwise.h"

#include <cstddef>
#include <optional>

#include "base/random.h"

namespace mesh::exactness {
namespace {

struct Pair {
  std::size_t a = 0, b = 0;  // factors, a < b
  int x = 0, y = 0;          // their values
};

// Which pairs of values still have to meet.
class OpenPairs {
 public:
  explicit OpenPairs(const std::vector<int>& sizes) : sizes_(sizes) {
    for (std::size_t a = 0; a < sizes.size(); ++a)
      for (std::size_t b = a + 1; b < sizes.size(); ++b)
        open_.emplace_back(static_cast<std::size_t>(sizes[a] * sizes[b]), std::uint8_t{1});
  }
  void close(const std::vector<int>& row) {
    for (std::size_t a = 0; a < row.size(); ++a)
      for (std::size_t b = a + 1; b < row.size(); ++b)
        open_[table(a, b)][cell(b, row[a], row[b])] = 0;
  }
  std::optional<Pair> first() const {
    for (std::size_t a = 0; a < sizes_.size(); ++a)
      for (std::size_t b = a + 1; b < sizes_.size(); ++b)
        for (int x = 0; x < sizes_[a]; ++x)
          for (int y = 0; y < sizes_[b]; ++y)
            if (open_[table(a, b)][cell(b, x, y)] != 0) return Pair{a, b, x, y};
    return std::nullopt;
  }
  // Open pairs that value x of factor f closes with the factors already set (-1: not set).
  int gain(const std::vector<int>& row, std::size_t f, int x) const {
    int count = 0;
    for (std::size_t other = 0; other < row.size(); ++other) {
      if (other == f || row[other] < 0) continue;
      count += other < f ? open_[table(other, f)][cell(f, row[other], x)]
                         : open_[table(f, other)][cell(other, x, row[other])];
    }
    return count;
  }

 private:
  std::size_t table(std::size_t a, std::size_t b) const {
    std::size_t index = 0;
    for (std::size_t i = 0; i < a; ++i) index += sizes_.size() - 1 - i;
    return index + b - a - 1;
  }
  std::size_t cell(std::size_t b, int x, int y) const {
    return static_cast<std::size_t>(x * sizes_[b] + y);
  }
  std::vector<int> sizes_;
  std::vector<std::vector<std::uint8_t>> open_;
};

}  // namespace

std::vector<std::vector<int>> pairwise(const std::vector<int>& sizes) {
  std::vector<std::vector<int>> rows;
  OpenPairs pairs(sizes);
  Prng random(1);
  while (const std::optional<Pair> seed = pairs.first()) {
    std::vector<int> row(sizes.size(), -1);
    row[seed->a] = seed->x;
    row[seed->b] = seed->y;
    for (std::size_t f = 0; f < sizes.size(); ++f) {
      if (row[f] >= 0) continue;
      const int start = static_cast<int>(random.below(static_cast<std::uint64_t>(sizes[f])));
      int best = start, best_gain = -1;
      for (int i = 0; i < sizes[f]; ++i) {
        const int x = (start + i) % sizes[f];
        const int gain = pairs.gain(row, f, x);
        if (gain > best_gain) {
          best = x;
          best_gain = gain;
        }
      }
      row[f] = best;
    }
    pairs.close(row);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<std::vector<int>> product(const std::vector<int>& sizes) {
  std::vector<std::vector<int>> rows{{}};
  for (int size : sizes) {
    std::vector<std::vector<int>> longer;
    for (const std::vector<int>& row : rows)
      for (int x = 0; x < size; ++x) {
        longer.push_back(row);
        longer.back().push_back(x);
      }
    rows = std::move(longer);
  }
  return rows;
}

}  // namespace mesh::exactness
