#pragma once
// The cpu backend: numeric class cpu/1 (docs/numerics.md) on AVX-512, AVX2 and scalar kernels, the
// same bits on each.

#include <memory>
#include <string>

#include "base/result.h"
#include "ops/ops.h"

namespace mesh::backends::cpu {

struct CpuOptions {
  int threads = 1;  // of the compute pool, the calling thread included
  std::string
      isa;  // "avx512", "neon" …, "scalar_plain" (tests), see isa.h; "": the best the processor has
};

// Weights in f32, bf16 and f16; KV in f32 or bf16; row-wise exact. A few milliseconds for the
// self-test. Errors: unsupported when the processor lacks the instruction set (names both),
// invalid_argument (unknown set, threads).
Result<std::unique_ptr<ops::Backend>> make_cpu_backend(const CpuOptions& options);

}  // namespace mesh::backends::cpu
