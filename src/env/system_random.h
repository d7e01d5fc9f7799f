#pragma once
// The operating system's generator.

#include <cstddef>
#include <span>

#include "env/env.h"

namespace mesh::env {

// getentropy(2): fit for keys; thread-safe; never fails on a system that boots.
class SystemRandom final : public Random {
 public:
  void fill(std::span<std::byte> out) override;
};

}  // namespace mesh::env
