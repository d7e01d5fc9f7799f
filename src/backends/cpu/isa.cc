#include "backends/cpu/isa.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>

#if defined(MESH_CPU_X86)
#include <cpuid.h>
#elif defined(MESH_CPU_ARM) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(MESH_CPU_ARM)
#include <sys/auxv.h>
#endif

#include "backends/cpu/quant256.h"

namespace mesh::backends::cpu {
namespace {

// Of all families of processors.
constexpr std::string_view kNames[] = {"avx512", "avx2",   "neon_dotprod",
                                       "neon",   "scalar", "scalar_plain"};

struct InstructionSet {
  std::string_view name;
  bool (*runs)();  // on the processor at hand
  const KernelTable& (*kernels)();
  const QuantKernels& (*quant256)();
};
bool always() {
  return true;
}

#if defined(MESH_CPU_X86)
// __builtin_cpu_supports asks cpuid and, through xgetbv, whether the system saves the registers.
bool has_fma() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx");
}
bool has_avx2() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
  return f16c && has_fma() && __builtin_cpu_supports("avx2");
}
// A processor with AVX-512 but without VNNI runs avx2.
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#elif defined(MESH_CPU_ARM) && defined(__APPLE__)
bool has_dotprod() {
  int has = 0;
  std::size_t bytes = sizeof(has);
  return ::sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &bytes, nullptr, 0) == 0 && has != 0;
}
#elif defined(MESH_CPU_ARM)
bool has_dotprod() {
  return (::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}
#endif

// Those of this family of processors, best first.
constexpr InstructionSet kSets[] = {
#if defined(MESH_CPU_X86)
    {"avx512", has_avx512, avx512_kernels, avx512_quant256_kernels},
    {"avx2", has_avx2, avx2_kernels, avx2_quant256_kernels},
    {"scalar", has_fma, scalar_fma_kernels, scalar_fma_quant256_kernels},
#elif defined(MESH_CPU_ARM)
    {"neon_dotprod", has_dotprod, neon_dotprod_kernels, neon_dotprod_quant256_kernels},
    {"neon", always, neon_kernels, neon_quant256_kernels},
#endif
    {"scalar", always, scalar_plain_kernels, scalar_plain_quant256_kernels},
};

bool is_known(std::string_view isa) {
  return std::find(std::begin(kNames), std::end(kNames), isa) != std::end(kNames);
}

// From worst to best.
std::string usable_sets() {
  std::string text = "scalar";
  for (std::size_t i = std::size(kSets); i-- > 0;)
    if (kSets[i].name != "scalar" && kSets[i].runs()) text += ", " + std::string(kSets[i].name);
  return text;
}

}  // namespace

Result<const KernelTable*> select_kernels(std::string_view isa) {
  if (isa == "scalar_plain") return &scalar_plain_kernels();
  for (const InstructionSet& set : kSets)
    if ((isa.empty() || isa == set.name) && set.runs()) return &set.kernels();
  if (!is_known(isa))
    return Error(Code::kInvalidArgument, fmt::format("instruction set '{}' is unknown; known: {}",
                                                     isa, fmt::join(kNames, ", ")));
  return Error(Code::kUnsupported, "instruction set '" + std::string(isa) +
                                       "' was asked for, but " + processor_name() +
                                       " has only: " + usable_sets());
}

QuantKernels quant_kernels(const KernelTable& table) {
  const QuantKernels* wide = &scalar_plain_quant256_kernels();
  for (const InstructionSet& set : kSets)
    if (&table == &set.kernels()) wide = &set.quant256();
  QuantKernels all = table.quant;
  for (int type = kQuant32Types; type < kQuantTypes; ++type) {
    all.one[type] = wide->one[type];
    all.rows[type] = wide->rows[type];
  }
  return all;
}

std::string processor_name() {
#if defined(MESH_CPU_X86)
  std::array<unsigned, 12> words{};
  for (unsigned i = 0; i < 3; ++i)
    if (__get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                    &words[4 * i + 3]) == 0)
      return "unknown processor";
  std::array<char, 49> text{};
  std::memcpy(text.data(), words.data(), 48);
  std::string name(text.data());
  name.erase(0, name.find_first_not_of(' '));
  while (!name.empty() && name.back() == ' ') name.pop_back();
  return name.empty() ? "unknown processor" : name;
#elif defined(MESH_CPU_ARM) && defined(__APPLE__)
  std::array<char, 128> text{};
  std::size_t bytes = text.size() - 1;
  if (::sysctlbyname("machdep.cpu.brand_string", text.data(), &bytes, nullptr, 0) != 0)
    return "unknown processor";
  return text.data();
#elif defined(MESH_CPU_ARM)
  if ((::getauxval(AT_HWCAP) & HWCAP_CPUID) == 0) return "unknown processor";
  std::uint64_t id = 0;
  asm("mrs %0, midr_el1" : "=r"(id));  // the kernel answers
  // Source: Arm, technical reference manuals of the cores, MIDR_EL1.
  struct Part {
    std::uint64_t number;
    std::string_view name;
  };
  constexpr Part kParts[] = {
      {0xD03, "Cortex-A53"},  {0xD05, "Cortex-A55"},  {0xD07, "Cortex-A57"},
      {0xD08, "Cortex-A72"},  {0xD0B, "Cortex-A76"},  {0xD0C, "Neoverse N1"},
      {0xD40, "Neoverse V1"}, {0xD49, "Neoverse N2"}, {0xD4F, "Neoverse V2"},
  };
  constexpr std::uint64_t kArm = 0x41;
  const std::uint64_t implementer = id >> 24 & 0xFF, part = id >> 4 & 0xFFF;
  if (implementer == kArm)
    for (const Part& known : kParts)
      if (part == known.number) return "ARM " + std::string(known.name);
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "ARM implementer 0x%02x part 0x%03x",
                static_cast<unsigned>(implementer), static_cast<unsigned>(part));
  return text.data();
#else
  return "unknown processor";
#endif
}

}  // namespace mesh::backends::cpu
