#include "bench/support/machine_peaks.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mesh::bench {
namespace {

volatile std::int64_t g_sink = 0;  // keeps the results of the loops alive

#if defined(__x86_64__)

// Keeps the compiler from knowing the value, so that nothing is moved out of the loop.
#define MESH_OPAQUE(vector) asm volatile("" : "+v"(vector))

constexpr int kStreams512 = 8, kChains512 = 16;

__attribute__((target("avx512f"))) std::int64_t sum_512(__m512i words) {
  alignas(64) std::int32_t lanes[16];
  _mm512_store_si512(lanes, words);
  std::int64_t total = 0;
  for (const std::int32_t lane : lanes) total += lane;
  return total;
}

__attribute__((target("avx512f,avx512bw,avx512vl"))) void read_512(const char* data,
                                                                   std::size_t bytes) {
  __m512i sum[kStreams512];
#pragma GCC unroll 8
  for (int k = 0; k < kStreams512; ++k) sum[k] = _mm512_setzero_si512();
  for (std::size_t i = 0; i + 64 * kStreams512 <= bytes; i += 64 * kStreams512) {
#pragma GCC unroll 8
    for (int k = 0; k < kStreams512; ++k)
      sum[k] = _mm512_add_epi32(sum[k], _mm512_load_si512(data + i + 64 * k));
  }
#pragma GCC unroll 8
  for (int k = 1; k < kStreams512; ++k) sum[0] = _mm512_add_epi32(sum[0], sum[k]);
  g_sink = g_sink + sum_512(sum[0]);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) void multiply_512(
    std::int64_t rounds) {
  __m512i sum[kChains512], u = _mm512_set1_epi8(3), v = _mm512_set1_epi8(2);
#pragma GCC unroll 16
  for (int k = 0; k < kChains512; ++k) sum[k] = _mm512_setzero_si512();
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int k = 0; k < kChains512; ++k) {
      sum[k] = _mm512_dpbusd_epi32(sum[k], u, v);
      MESH_OPAQUE(sum[k]);
    }
  }
#pragma GCC unroll 16
  for (int k = 1; k < kChains512; ++k) sum[0] = _mm512_add_epi32(sum[0], sum[k]);
  g_sink = g_sink + sum_512(sum[0]);
}

constexpr int kStreams256 = 8, kChains256 = 8;

__attribute__((target("avx2"))) std::int64_t sum_256(__m256i words) {
  alignas(32) std::int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), words);
  std::int64_t total = 0;
  for (const std::int32_t lane : lanes) total += lane;
  return total;
}

__attribute__((target("avx2"))) void read_256(const char* data, std::size_t bytes) {
  __m256i sum[kStreams256];
#pragma GCC unroll 8
  for (int k = 0; k < kStreams256; ++k) sum[k] = _mm256_setzero_si256();
  for (std::size_t i = 0; i + 32 * kStreams256 <= bytes; i += 32 * kStreams256) {
#pragma GCC unroll 8
    for (int k = 0; k < kStreams256; ++k)
      sum[k] = _mm256_add_epi32(
          sum[k], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + i + 32 * k)));
  }
#pragma GCC unroll 8
  for (int k = 1; k < kStreams256; ++k) sum[0] = _mm256_add_epi32(sum[0], sum[k]);
  g_sink = g_sink + sum_256(sum[0]);
}

// Without VNNI a product of bytes that ends in 32 bits takes three instructions.
__attribute__((target("avx2"))) void multiply_256(std::int64_t rounds) {
  __m256i sum[kChains256], u = _mm256_set1_epi8(3), v = _mm256_set1_epi8(2);
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int k = 0; k < kChains256; ++k) sum[k] = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < kChains256; ++k) {
      __m256i left = u;
      MESH_OPAQUE(left);
      const __m256i words = _mm256_madd_epi16(_mm256_maddubs_epi16(left, v), ones);
      sum[k] = _mm256_add_epi32(sum[k], words);
      MESH_OPAQUE(sum[k]);
    }
  }
#pragma GCC unroll 8
  for (int k = 1; k < kChains256; ++k) sum[0] = _mm256_add_epi32(sum[0], sum[k]);
  g_sink = g_sink + sum_256(sum[0]);
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2");
}

#endif

void read_plain(const char* data, std::size_t bytes) {
  std::uint64_t sum[4] = {};
  for (std::size_t i = 0; i + sizeof sum <= bytes; i += sizeof sum) {
    std::uint64_t words[4];
    std::memcpy(words, data + i, sizeof words);
    for (int k = 0; k < 4; ++k) sum[k] += words[k];
  }
  g_sink = g_sink + static_cast<std::int64_t>(sum[0] + sum[1] + sum[2] + sum[3]);
}

constexpr int kPlainValues = 256;

void multiply_plain(std::int64_t rounds) {
  std::int8_t left[kPlainValues], right[kPlainValues];
  std::fill_n(left, kPlainValues, static_cast<std::int8_t>(3));
  std::fill_n(right, kPlainValues, static_cast<std::int8_t>(2));
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < rounds; ++i) {
    left[i % kPlainValues] = static_cast<std::int8_t>(i);
    for (int k = 0; k < kPlainValues; ++k) sum += left[k] * right[k];
  }
  g_sink = g_sink + sum;
}

constexpr MachinePeaks kPeaks[] = {
#if defined(__x86_64__)
    {"avx512", "vpdpbusd", has_avx512, read_512, multiply_512, kChains512 * 64 * 2.0},
    {"avx2", "vpmaddubsw", has_avx2, read_256, multiply_256, kChains256 * 32 * 2.0},
#endif
    {"scalar", "plain", [] { return true; }, read_plain, multiply_plain, kPlainValues * 2.0},
};

}  // namespace

const MachinePeaks* machine_peaks(std::string_view isa) {
  for (const MachinePeaks& peaks : kPeaks)
    if (isa == peaks.isa || (isa.empty() && peaks.usable())) return &peaks;
  return nullptr;
}

}  // namespace mesh::bench
