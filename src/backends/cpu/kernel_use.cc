#include "backends/cpu/kernel_use.h"

#include <algorithm>

namespace mesh::backends::cpu {
namespace {

struct Row {
  Kernel kernel;
  std::string_view op;
  std::string_view name;
};

constexpr Kernel of(Kernel first, QuantType type) {
  return static_cast<Kernel>(static_cast<int>(first) + type);
}

constexpr Row kRows[] = {
    {Kernel::kLinearOneF32, "linear.f32", "one_row"},
    {Kernel::kLinearOneBF16, "linear.bf16", "one_row"},
    {Kernel::kLinearOneF16, "linear.f16", "one_row"},
    {Kernel::kLinearFewF32, "linear.f32", "few_rows"},
    {Kernel::kLinearFewBF16, "linear.bf16", "few_rows"},
    {Kernel::kLinearFewF16, "linear.f16", "few_rows"},
    {Kernel::kLinearManyF32, "linear.f32", "many_rows"},
    {Kernel::kLinearManyBF16, "linear.bf16", "many_rows"},
    {Kernel::kLinearManyF16, "linear.f16", "many_rows"},
    {of(Kernel::kQuantOne, kQuantQ4_0), "linear.q4_0", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ4_1), "linear.q4_1", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ5_0), "linear.q5_0", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ5_1), "linear.q5_1", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ8_0), "linear.q8_0", "one_row"},
    {of(Kernel::kQuantOne, kQuantIQ4_NL), "linear.iq4_nl", "one_row"},
    {of(Kernel::kQuantOne, kQuantMXFP4), "linear.mxfp4", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ2_K), "linear.q2_k", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ3_K), "linear.q3_k", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ4_K), "linear.q4_k", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ5_K), "linear.q5_k", "one_row"},
    {of(Kernel::kQuantOne, kQuantQ6_K), "linear.q6_k", "one_row"},
    {of(Kernel::kQuantOne, kQuantIQ4_XS), "linear.iq4_xs", "one_row"},
    {of(Kernel::kQuantRows, kQuantQ4_0), "linear.q4_0", "rows"},
    {of(Kernel::kQuantRows, kQuantQ4_1), "linear.q4_1", "rows"},
    {of(Kernel::kQuantRows, kQuantQ5_0), "linear.q5_0", "rows"},
    {of(Kernel::kQuantRows, kQuantQ5_1), "linear.q5_1", "rows"},
    {of(Kernel::kQuantRows, kQuantQ8_0), "linear.q8_0", "rows"},
    {of(Kernel::kQuantRows, kQuantIQ4_NL), "linear.iq4_nl", "rows"},
    {of(Kernel::kQuantRows, kQuantMXFP4), "linear.mxfp4", "rows"},
    {of(Kernel::kQuantRows, kQuantQ2_K), "linear.q2_k", "rows"},
    {of(Kernel::kQuantRows, kQuantQ3_K), "linear.q3_k", "rows"},
    {of(Kernel::kQuantRows, kQuantQ4_K), "linear.q4_k", "rows"},
    {of(Kernel::kQuantRows, kQuantQ5_K), "linear.q5_k", "rows"},
    {of(Kernel::kQuantRows, kQuantQ6_K), "linear.q6_k", "rows"},
    {of(Kernel::kQuantRows, kQuantIQ4_XS), "linear.iq4_xs", "rows"},
    {Kernel::kQuantize32, "quantize.32", "rows"},
    {Kernel::kQuantize256, "quantize.256", "rows"},
    {Kernel::kRmsNormF32, "rms_norm.f32", "row"},
    {Kernel::kRmsNormBF16, "rms_norm.bf16", "row"},
    {Kernel::kSwiglu, "swiglu", "row"},
    {Kernel::kSoftmax, "experts.softmax", "row"},
    {Kernel::kAddWeighted, "experts.add", "row"},
    {Kernel::kAddGated, "add_gated", "row"},
    {Kernel::kAddF32, "add_residual.f32", "row"},
    {Kernel::kAddBF16, "add_residual.bf16", "row"},
    {Kernel::kAttentionPrepare, "attention.prepare", "head"},
    {Kernel::kAttentionF32, "attention.f32", "segment"},
    {Kernel::kAttentionBF16, "attention.bf16", "segment"},
    {Kernel::kAttentionI8, "attention.i8", "segment"},
    {Kernel::kAttentionMerge, "attention.merge", "head"},
    {Kernel::kEmbed, "embed", "row"},
    {Kernel::kTakeRows, "take_rows", "row"},
    {Kernel::kRopeTable, "rope_table", "row"},
};
static_assert(std::size(kRows) == static_cast<std::size_t>(Kernel::kCount));

constexpr std::string_view kGeneric[] = {"embed", "take_rows", "rope_table"};

}  // namespace

std::span<const std::string_view> generic_ops() {
  return kGeneric;
}

std::vector<ops::KernelUse> KernelUses::list(std::string_view isa) const {
  std::vector<ops::KernelUse> uses;
  for (const Row& row : kRows) {
    if (!used_[static_cast<std::size_t>(row.kernel)]) continue;
    const bool generic =
        std::find(std::begin(kGeneric), std::end(kGeneric), row.op) != std::end(kGeneric);
    const std::string set(generic ? std::string_view("generic") : isa);
    uses.push_back({std::string(row.op), set + "." + std::string(row.name), set});
  }
  std::sort(uses.begin(), uses.end());
  return uses;
}

}  // namespace mesh::backends::cpu
