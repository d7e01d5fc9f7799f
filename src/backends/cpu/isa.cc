#include "backends/cpu/isa.h"

#include <array>
#include <cstring>

#if defined(MESH_CPU_X86)
#include <cpuid.h>
#endif

#include "backends/cpu/quant256.h"

namespace mesh::backends::cpu {
namespace {

struct Features {
  bool fma = false, avx2 = false, avx512 = false;
};

#if defined(MESH_CPU_X86)
// __builtin_cpu_supports asks cpuid and, through xgetbv, whether the system saves the registers.
// A processor with AVX-512 but without VNNI runs avx2.
Features features() {
  __builtin_cpu_init();
  Features f;
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
  f.fma = __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx");
  f.avx2 = f.fma && f16c && __builtin_cpu_supports("avx2");
  f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512vnni");
  return f;
}
const KernelTable& best_scalar(const Features& f) {
  return f.fma ? scalar_fma_kernels() : scalar_plain_kernels();
}
#else
Features features() {
  return {};
}
const KernelTable& best_scalar(const Features&) {
  return scalar_plain_kernels();
}
#endif

std::string list_of(const Features& f) {
  std::string text = "scalar";
  if (f.avx2) text += ", avx2";
  if (f.avx512) text += ", avx512";
  return text;
}

}  // namespace

Result<const KernelTable*> select_kernels(std::string_view isa) {
  const Features f = features();
  if (isa == "scalar") return &best_scalar(f);
  if (isa == "scalar_plain") return &scalar_plain_kernels();
#if defined(MESH_CPU_X86)
  if (f.avx512 && (isa.empty() || isa == "avx512")) return &avx512_kernels();
  if (f.avx2 && (isa.empty() || isa == "avx2")) return &avx2_kernels();
#endif
  if (isa.empty()) return &best_scalar(f);
  if (isa != "avx512" && isa != "avx2")
    return Error(Code::kInvalidArgument,
                 "instruction set '" + std::string(isa) +
                     "' is unknown; known: avx512, avx2, scalar, scalar_plain");
  return Error(Code::kUnsupported, "instruction set '" + std::string(isa) +
                                       "' was asked for, but " + processor_name() +
                                       " has only: " + list_of(f));
}

QuantKernels quant_kernels(const KernelTable& table) {
  const QuantKernels* wide = &scalar_plain_quant256_kernels();
#if defined(MESH_CPU_X86)
  if (&table == &scalar_fma_kernels()) wide = &scalar_fma_quant256_kernels();
  if (&table == &avx2_kernels()) wide = &avx2_quant256_kernels();
  if (&table == &avx512_kernels()) wide = &avx512_quant256_kernels();
#endif
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
#else
  return "unknown processor";
#endif
}

}  // namespace mesh::backends::cpu
