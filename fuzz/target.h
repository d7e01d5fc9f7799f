#pragma once
// What every fuzz target shares: its entry point, and views of the input.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string_view>
#include <utility>

#include "base/check.h"

// Runs one input; 0 always. A fault shows as a crash, a failed MESH_CHECK, a sanitizer's report, or
// time and memory beyond the bounds of run.sh. Called again and again, so it keeps no state.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace mesh::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

inline std::span<const std::byte> bytes_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}

// Inputs of two texts: what stands before the first NUL byte, and what stands behind it.
inline std::pair<std::string_view, std::string_view> two_parts(std::string_view input) {
  const std::size_t nul = input.find('\0');
  if (nul == input.npos) return {input, {}};
  return {input.substr(0, nul), input.substr(nul + 1)};
}

// Whether to break what a parser gave: only in the builds of run.sh --planted, and there once
// `state` is reached, which no seed does. The checks of the target have to find what is then
// broken, so that a run without findings means something.
inline bool planted([[maybe_unused]] bool state) {
#ifdef MESH_FUZZ_PLANTED
  if (state) std::fputs("the planted fault is reached\n", stderr);
  return state;
#else
  return false;
#endif
}

}  // namespace mesh::fuzz
