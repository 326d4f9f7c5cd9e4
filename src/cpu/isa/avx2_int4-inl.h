// SPDX-License-Identifier: Apache-2.0
// Tile loops of AVX2 on int4 lines.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

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

/// What partials are added to, in memory: registers hold the partials and what they are made from.
template <int kRows>
struct NibbleSums {
  alignas(32) int32_t c[kRows][kPanelColumns];

  /// Reached by a pointer of which the compiler knows nothing: else it has copies of what is stored, and keeps those on the stack.
  int32_t* Hidden() {
    int32_t* at = c[0];
    asm volatile("" : "+r"(at));
    return at;
  }
  /// Where the sum of a slice starts: the + 8 of the stored nibbles is taken out.
  static __m256i First(const GemmArgs& a, int slice, int i, int j) {
    if (a.add && a.scales == nullptr) return Load32(static_cast<const int32_t*>(a.acc) + i * kPairColumns + j);
    return _mm256_set1_epi32(-8 * a.row_sums[i * a.row_sums_stride + slice]);
  }
  void Start(const GemmArgs& a, int slice) {
    int32_t* at = Hidden();
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i, at += kPanelColumns) {
      Store32(at, First(a, slice, i, 0));
      Store32(at + 8, First(a, slice, i, 8));
    }
  }
  void Add(const NibblePartials<kRows>& partials) {
    const __m256i ones = _mm256_set1_epi16(1);
    int32_t* at = Hidden();
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i, at += kPanelColumns) {
      Store32(at, _mm256_add_epi32(Load32(at), _mm256_madd_epi16(partials.c[i][0], ones)));
      Store32(at + 8, _mm256_add_epi32(Load32(at + 8), _mm256_madd_epi16(partials.c[i][1], ones)));
    }
  }
  /// The slice's last partials, and its sums to where they belong. kOnly: there were no others, nor a start.
  template <bool kOnly>
  void Finish(const GemmArgs& a, int slice, const NibblePartials<kRows>& partials) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int32_t* at = Hidden();
    const float* scales = a.scales + slice * kPairColumns;
    const bool first = slice == 0 && !a.add;
    const auto sum = [&](int i, int j) __attribute__((always_inline)) {
      const __m256i before = kOnly ? First(a, slice, i, j) : Load32(at + i * kPanelColumns + j);
      return _mm256_add_epi32(before, _mm256_madd_epi16(partials.c[i][j / 8], ones));
    };
    if (a.scales == nullptr) {
      int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i, acc += kPairColumns) {
        Store32(acc, sum(i, 0));
        Store32(acc + 8, sum(i, 8));
      }
      return;
    }
#pragma GCC unroll 2
    for (int j = 0; j < kPanelColumns; j += 8) {
      const __m256 scale = _mm256_loadu_ps(scales + j);
      float* folded = static_cast<float*>(a.acc) + j;
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i, folded += kPairColumns) {
        const __m256 so_far = first ? _mm256_setzero_ps() : _mm256_loadu_ps(folded);
        _mm256_storeu_ps(folded, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum(i, j)), scale, so_far));
      }
    }
  }
};

/// int4 from packed lines: 8 k a line, two steps each, partials added every four lines. One panel, or both of a pair together, as
/// one row or two want it that wait for memory. Two shared Zen 3 cores, 16 to 256 rows, against a loop over lines within one over
/// fours, whose sums the compiler stored twice: per channel 1.25 x, slices of 128 1.16 to 1.20, of 64 1.14, of 32 1.07.
template <int kRows, int kPanels>
struct NibbleLoop {
  static constexpr int kLines = 4;

  static void Run(const GemmArgs& args) {
    const GemmArgs of[2] = {args, SecondOf(args)};  // copies: as far as a compiler knows, sums that are written may be args
    const __m256i low = _mm256_set1_epi8(15);
    XRows<int8_t> x(of[0]);
    const uint8_t* w = of[0].w[0];
    const ptrdiff_t other = of[0].w[1] - w;
    std::conditional_t<kPanels == 2, AheadOfPair, Ahead> ahead(of[0]);
    const int lines = (of[0].k + 7) / 8, slices = of[0].scales ? of[0].slices : 1;
    NibblePartials<kRows> partials[kPanels];
    const auto clear = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) partials[p].Clear();
    };
    const auto add_line = [&](int l) __attribute__((always_inline)) {
      ahead.Fetch();
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        const uint8_t* line = w + p * other + l * kLineBytes;
        const __m256i v0 = Load32(line), v1 = Load32(line + 32);
        partials[p].Step(x, 8 * l, _mm256_and_si256(v0, low), _mm256_and_si256(v1, low));
        if constexpr (kPanels == 2) ReadAgain(line);
        const __m256i u0 = kPanels == 2 ? Load32(line) : v0, u1 = kPanels == 2 ? Load32(line + 32) : v1;
        partials[p].Step(x, 8 * l + 4, _mm256_and_si256(_mm256_srli_epi16(u0, 4), low),
                         _mm256_and_si256(_mm256_srli_epi16(u1, 4), low));
      }
    };
    for (int slice = 0; slice < slices; ++slice) {
      NibbleSums<kRows> sums[kPanels];
      if (lines > kLines) {
        for (int p = 0; p < kPanels; ++p) sums[p].Start(of[p], slice);
      }
      int l = 0;
      for (; l + kLines <= lines; l += kLines, w += kLines * kLineBytes, x.Advance(8 * kLines)) {
        clear();
#pragma GCC unroll 4
        for (int i = 0; i < kLines; ++i) add_line(i);
        if (l + kLines == lines) continue;
#pragma GCC unroll 2
        for (int p = 0; p < kPanels; ++p) sums[p].Add(partials[p]);
      }
      if (l < lines) {
        clear();
        for (; l < lines; ++l, w += kLineBytes, x.Advance(8)) add_line(0);
      }
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        lines > kLines ? sums[p].template Finish<false>(of[p], slice, partials[p])
                       : sums[p].template Finish<true>(of[p], slice, partials[p]);
      }
    }
  }
};
template <int kRows>
using GemmInt4 = NibbleLoop<kRows, 1>;
template <int kRows>
using GemmInt4Pair = NibbleLoop<kRows, 2>;

}  // namespace
}  // namespace qgmm::cpu
