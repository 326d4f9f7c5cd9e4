// SPDX-License-Identifier: Apache-2.0
// Tile loops of AVX2 on int4 lines.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/isa/avx2_gemm-inl.h"

namespace qgmm::cpu {
namespace {

/// Sums of u4 x s8 products in int16, of at most eight steps: 8 * 2 * 15 * 128 = 30720 fits.
template <int kRows>
struct NibblePartials {
  __m256i c[kRows][2];

  void Clear() {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) c[i][0] = c[i][1] = _mm256_setzero_si256();
  }
  void Step(const XRows<int8_t>& x, int k, __m256i b0, __m256i b1) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m256i four = Broadcast4(x[i] + k);
      c[i][0] = _mm256_add_epi16(c[i][0], _mm256_maddubs_epi16(b0, four));
      c[i][1] = _mm256_add_epi16(c[i][1], _mm256_maddubs_epi16(b1, four));
      SumSoFar(c[i][0]);
      SumSoFar(c[i][1]);
    }
  }
};

/// What partials are added to, in memory: registers hold the partials and what they are made from, and left to itself the
/// compiler keeps these sums in some and puts partials on the stack, in the loop over lines.
template <int kRows>
struct NibbleSums {
  Sums<kRows> sums;

  /// The + 8 of the stored nibbles is taken out at the start of a slice.
  void Start(const GemmArgs& a, int slice) {
    if (a.add && a.scales == nullptr) return sums.Start(a);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const __m256i start = _mm256_set1_epi32(-8 * a.row_sums[i * a.row_sums_stride + slice]);
      sums.c[i][0] = start;
      sums.c[i][1] = start;
    }
  }
  void Finish(const GemmArgs& a, int slice) const {
    if (a.scales == nullptr) return sums.Finish(a);
    const float* scales = a.scales + slice * kPairColumns;
    float* folded = static_cast<float*>(a.acc);
    const bool first = slice == 0 && !a.add;
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256 scale = _mm256_loadu_ps(scales + 8 * j);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        float* at = folded + i * kPairColumns + 8 * j;
        const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(at);
        _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.c[i][j]), scale, before));
      }
    }
  }
  void Add(const NibblePartials<kRows>& partials) {
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      sums.c[i][0] = _mm256_add_epi32(sums.c[i][0], _mm256_madd_epi16(partials.c[i][0], ones));
      sums.c[i][1] = _mm256_add_epi32(sums.c[i][1], _mm256_madd_epi16(partials.c[i][1], ones));
    }
    asm volatile("" : "+m"(sums));
  }
};

/// int4 from packed lines: 8 k a line, two steps each, partials added every four lines. Tried: nibbles split once per panel and
/// read as bytes, 76 against 96 GMAC/s at 64 rows and slices of 128 (Zen 4, GCC 12): twice the bytes from L2.
template <int kRows>
struct GemmInt4 {
  static void Run(const GemmArgs& a) {
    const __m256i low = _mm256_set1_epi8(15);
    XRows<int8_t> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    const int lines = (a.k + 7) / 8, slices = a.scales ? a.slices : 1;
    for (int slice = 0; slice < slices; ++slice) {
      NibbleSums<kRows> s;
      s.Start(a, slice);
      for (int l = 0; l < lines;) {
        const int end = l + 4 < lines ? l + 4 : lines;
        NibblePartials<kRows> partials;
        partials.Clear();
        for (; l < end; ++l, w += kLineBytes, x.Advance(8)) {
          ahead.Fetch();
          const __m256i v0 = Load32(w), v1 = Load32(w + 32);
          partials.Step(x, 0, _mm256_and_si256(v0, low), _mm256_and_si256(v1, low));
          partials.Step(x, 4, _mm256_and_si256(_mm256_srli_epi16(v0, 4), low),
                        _mm256_and_si256(_mm256_srli_epi16(v1, 4), low));
        }
        s.Add(partials);
      }
      s.Finish(a, slice);
    }
  }
};

/// Both panels of a pair together, as one row or two want it that wait for memory.
template <int kRows>
struct GemmInt4Pair {
  static void Run(const GemmArgs& a) {
    const GemmArgs second = SecondOf(a);
    const __m256i low = _mm256_set1_epi8(15);
    XRows<int8_t> x(a);
    const uint8_t* w = a.w[0];
    const ptrdiff_t other = a.w[1] - a.w[0];
    AheadOfPair ahead(a);
    const int lines = (a.k + 7) / 8, slices = a.scales ? a.slices : 1;
    for (int slice = 0; slice < slices; ++slice) {
      NibbleSums<kRows> s, t;
      s.Start(a, slice);
      t.Start(second, slice);
      for (int l = 0; l < lines;) {
        const int end = l + 4 < lines ? l + 4 : lines;
        NibblePartials<kRows> p, q;
        p.Clear();
        q.Clear();
        for (; l < end; ++l, w += kLineBytes, x.Advance(8)) {
          ahead.Fetch();
          const auto add = [&](NibblePartials<kRows>& partials, const uint8_t* line) __attribute__((always_inline)) {
            partials.Step(x, 0, _mm256_and_si256(Load32(line), low), _mm256_and_si256(Load32(line + 32), low));
            ReadAgain(line);
            partials.Step(x, 4, _mm256_and_si256(_mm256_srli_epi16(Load32(line), 4), low),
                          _mm256_and_si256(_mm256_srli_epi16(Load32(line + 32), 4), low));
          };
          add(p, w);
          add(q, w + other);
        }
        s.Add(p);
        t.Add(q);
      }
      s.Finish(a, slice);
      t.Finish(second, slice);
    }
  }
};

}  // namespace
}  // namespace qgmm::cpu
