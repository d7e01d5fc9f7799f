#pragma once
// Instruction sets of this backend and which of them the processor at hand can run.

#include <string>
#include <string_view>

#include "backends/cpu/kernels.h"
#include "base/result.h"

namespace mesh::backends::cpu {

// Kernels for `isa`: "avx512", "avx2", "neon_dotprod", "neon", "scalar" (with the FMA instruction
// where there is one), "scalar_plain" (on x86 always without, for tests), or "" for the best.
// Errors: unsupported (names the set asked for and what the processor has), invalid_argument for an
// unknown name.
Result<const KernelTable*> select_kernels(std::string_view isa);

// Kernels of all quantised types for the instruction set of `table`.
QuantKernels quant_kernels(const KernelTable& table);

// "AMD EPYC 9B14"; on ARM under Linux the implementer and part of MIDR_EL1 where the name
// is not known; "unknown processor" where nothing tells.
std::string processor_name();

}  // namespace mesh::backends::cpu
