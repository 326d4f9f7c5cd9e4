// SPDX-License-Identifier: Apache-2.0
// Tile loops of AVX2 on certified panels: vpmaddubsw of x + 128 with signed weights, exact because no lane's sum can leave
// int16 (docs/packing.md). What the 128 added, 128 * the column's sum, is taken out at the start.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/isa/avx2_gemm-inl.h"

namespace qgmm::cpu {
namespace {

/// Sums that start at -128 times the column's sum.
template <int kRows>
Sums<kRows> StartCertified(const GemmArgs& a) {
  Sums<kRows> sums;
  sums.Start(a);
  if (a.add) return sums;
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const __m256i start = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(Load32(a.column_sums[0] + 8 * j), 7));
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) sums.c[i][j] = start;
  }
  return sums;
}

/// kPairs. Per line and row 1 broadcast, 2 vpmaddubsw, 2 vpmaddwd, 2 vpaddd = 64 multiply-adds. The line's second half is
/// an operand in memory: it has no register beside 12 sums, the ones and two temporaries.
template <int kRows>
struct GemmPairs {
  static_assert(kRows * 2 + 2 + 2 <= kRegisters);
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums = StartCertified<kRows>(a);
    const __m256i ones = _mm256_set1_epi16(1);
    XRows<uint8_t> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    const auto add_line = [&](int l) __attribute__((always_inline)) {
      ahead.Fetch();
      const __m256i b0 = Load32(w + l * kLineBytes);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        ReadAgain(w);
        const __m256i four = Broadcast4(x[i] + 4 * l), b1 = Load32(w + l * kLineBytes + 32);
        AddInPlace(sums.c[i][0], _mm256_madd_epi16(_mm256_maddubs_epi16(four, b0), ones));
        AddInPlace(sums.c[i][1], _mm256_madd_epi16(_mm256_maddubs_epi16(four, b1), ones));
      }
    };
    int k = 0;
    for (; k + 4 < a.k; k += 8, w += 2 * kLineBytes, x.Advance(8)) {
      add_line(0);
      add_line(1);
    }
    if (k < a.k) add_line(0);
    sums.Finish(a);
  }
};

/// kQuads: two lines' products are added in int16 first. Per two lines and row 2 broadcasts, 4 vpmaddubsw, 2 vpaddw, 2
/// vpmaddwd, 2 vpaddd = 128 multiply-adds.
template <int kRows>
struct GemmQuads {
  static_assert(kRows * 2 + 4 + 3 <= kRegisters);
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums = StartCertified<kRows>(a);
    const __m256i ones = _mm256_set1_epi16(1);
    XRows<uint8_t> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    const auto add_lines = [&](int l) __attribute__((always_inline)) {
      ahead.Fetch();
      ahead.Fetch();
      const __m256i b0 = Load32(w + l * kLineBytes), b2 = Load32(w + l * kLineBytes + 64), b3 = Load32(w + l * kLineBytes + 96);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        ReadAgain(w);
        const __m256i x0 = Broadcast4(x[i] + 4 * l), x1 = Broadcast4(x[i] + 4 * l + 4), b1 = Load32(w + l * kLineBytes + 32);
        const __m256i s0 = _mm256_add_epi16(_mm256_maddubs_epi16(x0, b0), _mm256_maddubs_epi16(x1, b2));
        const __m256i s1 = _mm256_add_epi16(_mm256_maddubs_epi16(x0, b1), _mm256_maddubs_epi16(x1, b3));
        AddInPlace(sums.c[i][0], _mm256_madd_epi16(s0, ones));
        AddInPlace(sums.c[i][1], _mm256_madd_epi16(s1, ones));
      }
    };
    int k = 0;
    for (; k + 8 < a.k; k += 16, w += 4 * kLineBytes, x.Advance(16)) {
      add_lines(0);
      add_lines(2);
    }
    if (k < a.k) add_lines(0);
    sums.Finish(a);
  }
};

/// Both panels of a pair together: two streams of weights from memory instead of one. Two Zen 3 cores, one row, k 2048, n
/// 2816: 17.1 -> 21.3 GB/s.
template <int kRows, bool kQuads>
struct CertifiedPair {
  static void Run(const GemmArgs& a) {
    constexpr int kLines = kQuads ? 2 : 1;
    const GemmArgs second = SecondOf(a);
    Sums<kRows> s = StartCertified<kRows>(a), t = StartCertified<kRows>(second);
    const __m256i ones = _mm256_set1_epi16(1);
    XRows<uint8_t> x(a);
    const uint8_t* w = a.w[0];
    const ptrdiff_t other = a.w[1] - a.w[0];
    AheadOfPair ahead(a);
    const auto add = [&](__m256i& sum, __m256i x0, __m256i x1, const uint8_t* half) __attribute__((always_inline)) {
      __m256i products = _mm256_maddubs_epi16(x0, Load32(half));
      if constexpr (kQuads) products = _mm256_add_epi16(products, _mm256_maddubs_epi16(x1, Load32(half + kLineBytes)));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, ones));
      SumSoFar(sum);
    };
    for (int k = 0; k < a.k; k += 4 * kLines, w += kLines * kLineBytes, x.Advance(4 * kLines)) {
      for (int l = 0; l < kLines; ++l) ahead.Fetch();
#pragma GCC unroll 2
      for (int i = 0; i < kRows; ++i) {
        ReadAgain(w);
        const __m256i x0 = Broadcast4(x[i]), x1 = kQuads ? Broadcast4(x[i] + 4) : x0;
        add(s.c[i][0], x0, x1, w);
        add(s.c[i][1], x0, x1, w + 32);
        add(t.c[i][0], x0, x1, w + other);
        add(t.c[i][1], x0, x1, w + other + 32);
      }
    }
    s.Finish(a);
    t.Finish(second);
  }
};
template <int kRows>
using GemmPairsPair = CertifiedPair<kRows, false>;
template <int kRows>
using GemmQuadsPair = CertifiedPair<kRows, true>;

}  // namespace
}  // namespace qgmm::cpu
