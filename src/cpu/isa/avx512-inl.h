// SPDX-License-Identifier: Apache-2.0
// What the loops of AVX-512 share: one zmm is one line, so a panel's 16 columns are one accumulator per row.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/kernel.h"

namespace qgmm::cpu {
namespace {

constexpr int kRegisters = 32;

/// The next line of a panel, and, while it is worked on, a fetch of what the worker says is read next, into L2: into L1 takes
/// 10 % from 1, 8 and 16 rows, and gives 1 % to 64.
struct Lines {
  const uint8_t* at;
  const uint8_t* prefetch;
  int prefetch_step;
  explicit Lines(const GemmArgs& a) : at(a.w[0]), prefetch(a.prefetch[0]), prefetch_step(a.prefetch_step) {}
  __m512i Next() {
    _mm_prefetch(reinterpret_cast<const char*>(prefetch), _MM_HINT_T1);
    prefetch += prefetch_step;
    const __m512i line = _mm512_loadu_si512(at);
    at += kLineBytes;
    return line;
  }
};
inline __m512i Broadcast4(const void* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof(v));
  return _mm512_set1_epi32(v);  // from memory: the load ports do it
}

/// Slices of a call: one, unless it folds.
inline int SliceCount(const GemmArgs& a) { return a.scales ? a.slices : 1; }

/// Sums of a slice into the fp32 rows of acc.
template <int kRows>
inline __attribute__((always_inline)) void Fold(const GemmArgs& a, int slice, const __m512i (&sums)[kRows]) {
  const __m512 scale = _mm512_loadu_ps(a.scales + slice * kPairColumns);
  float* folded = static_cast<float*>(a.acc);
  const bool first = slice == 0 && !a.add;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const __m512 before = first ? _mm512_setzero_ps() : _mm512_loadu_ps(folded + i * kPairColumns);
    _mm512_storeu_ps(folded + i * kPairColumns, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), scale, before));
  }
}

}  // namespace
}  // namespace qgmm::cpu
