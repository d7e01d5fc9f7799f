#pragma once
// Which kernels ran, and the operators that have no kernel of their own per instruction set.

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backends/cpu/quant.h"
#include "ops/ops.h"

namespace mesh::backends::cpu {

enum class Kernel : int {
  kLinearOneF32,
  kLinearOneBF16,
  kLinearOneF16,  // by WeightType
  kLinearFewF32,
  kLinearFewBF16,
  kLinearFewF16,
  kLinearManyF32,
  kLinearManyBF16,
  kLinearManyF16,
  kQuantOne,  // the first of all, by QuantType
  kQuantRows = kQuantOne + kQuantTypes,
  kQuantize32 = kQuantRows + kQuantTypes,
  kQuantize256,
  kRmsNormF32,
  kRmsNormBF16,
  kSwiglu,
  kSoftmax,
  kAddWeighted,
  kAddGated,
  kAddF32,
  kAddBF16,
  kAttentionPrepare,
  kAttentionF32,
  kAttentionBF16,
  kAttentionI8,
  kAttentionMerge,
  kEmbed,
  kTakeRows,
  kRopeTable,
  kCount,
};

// The exceptions: these operators copy bytes or evaluate f64 tables and run the same code under
// every instruction set, with isa "generic". An operator outside this list that runs a kernel of
// another set is a defect.
std::span<const std::string_view> generic_ops();

// One compute thread; never allocates while noting.
class KernelUses {
 public:
  void note(Kernel kernel) { used_[static_cast<std::size_t>(kernel)] = true; }
  void clear() { used_ = {}; }
  // Sorted, without repeats.
  std::vector<ops::KernelUse> list(std::string_view isa) const;

 private:
  std::array<bool, static_cast<std::size_t>(Kernel::kCount)> used_{};
};

}  // namespace mesh::backends::cpu
