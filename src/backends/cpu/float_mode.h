#pragma once
// Control bits of the floating-point unit, part of numeric class cpu/1.

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mesh::backends::cpu {

// Round to nearest even, denormals on, exceptions masked, on the calling thread. Called at the
// start of every part that a compute thread runs: a library may have changed the mode of any thread
// behind our back.
inline void set_float_mode() {
#if defined(__x86_64__)
  constexpr unsigned kDefault = 0x1F80, kStatus = 0x3F;
  if ((_mm_getcsr() & ~kStatus) != kDefault) _mm_setcsr(kDefault);
#elif defined(__aarch64__)
  // FPCR holds modes alone; 0 is all of the above, and IEEE halves in conversions of f16.
  unsigned long long mode = 0;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  if (mode != 0) asm volatile("msr fpcr, %0" : : "r"(0ULL));
#endif
}

}  // namespace mesh::backends::cpu
