#pragma once
// Seedable generators with a fixed definition, so that every seed means the same numbers on every
// machine.

#include <cstdint>
#include <string_view>

namespace mesh {

__extension__ using mesh_u128 = unsigned __int128;

// Output function of splitmix64 applied to x + golden gamma (Steele, Lea, Flood 2014).
constexpr std::uint64_t splitmix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

constexpr std::uint64_t fnv1a64(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325ull;
  for (char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return hash;
}

// Small sequential generator for tests, simulation and jitter. Not for secrets: those come from
// env::Random.
class Prng {
 public:
  explicit constexpr Prng(std::uint64_t seed) : state_(seed) {}
  constexpr std::uint64_t next() {
    const std::uint64_t out = splitmix64(state_);
    state_ += 0x9E3779B97F4A7C15ull;
    return out;
  }
  // Uniform in [0, bound); bound > 0. The bias of the multiply-shift is below 2^-32 for bounds
  // under 2^32.
  constexpr std::uint64_t below(std::uint64_t bound) {
    return static_cast<std::uint64_t>((static_cast<mesh_u128>(next()) * bound) >> 64);
  }
  constexpr double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  constexpr double range(double low, double high) { return low + (high - low) * unit(); }

 private:
  std::uint64_t state_;
};

}  // namespace mesh
