// SPDX-License-Identifier: Apache-2.0
// Tile loops of AVX2 on int4 lines.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "cpu/isa/avx2_gemm-inl.h"

namespace qgmm::cpu {
namespace {

constexpr int kFoldedLines = 4;  // whose partials fit int16

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

  /// Reached by a pointer of which the compiler knows nothing: else it keeps copies of what is stored, on the stack.
  int32_t* Hidden() {
    int32_t* at = c[0];
    asm volatile("" : "+r"(at));
    return at;
  }
  /// The + 8 of the stored nibbles is taken out at the start of a slice.
  void Start(const GemmArgs& a, int slice) {
    int32_t* at = Hidden();
    const int32_t* acc = static_cast<const int32_t*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i, at += kPanelColumns, acc += kPairColumns) {
      const bool add = a.add && a.scales == nullptr;
      const __m256i start = add ? Load32(acc) : _mm256_set1_epi32(-8 * a.row_sums[i * a.row_sums_stride + slice]);
      Store32(at, start);
      Store32(at + 8, add ? Load32(acc + 8) : start);
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
  void Finish(const GemmArgs& a, int slice) {
    const int32_t* at = Hidden();
    if (a.scales == nullptr) {
      int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i, at += kPanelColumns, acc += kPairColumns) {
        Store32(acc, Load32(at));
        Store32(acc + 8, Load32(at + 8));
      }
      return;
    }
    const float* scales = a.scales + slice * kPairColumns;
    const __m256 scale[2] = {_mm256_loadu_ps(scales), _mm256_loadu_ps(scales + 8)};
    float* folded = static_cast<float*>(a.acc);
    const bool first = slice == 0 && !a.add;
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i, at += kPanelColumns, folded += kPairColumns) {
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const __m256 so_far = first ? _mm256_setzero_ps() : _mm256_loadu_ps(folded + 8 * j);
        _mm256_storeu_ps(folded + 8 * j, _mm256_fmadd_ps(_mm256_cvtepi32_ps(Load32(at + 8 * j)), scale[j], so_far));
      }
    }
  }
};

/// int4 from packed lines: 8 k a line, two steps each, partials added every four lines. Tried: nibbles split once per panel and
/// read as bytes, 76 against 96 GMAC/s at 64 rows and slices of 128 (Zen 4, GCC 12): twice the bytes from L2; by 512 k, six rows
/// at once, 0.84 to 0.95 (Zen 3): a thirteenth sum on the stack.
template <int kRows>
struct GemmInt4 {
  static void Run(const GemmArgs& args) {
    const GemmArgs a = args;  // as far as a compiler knows, sums that are written may be args
    const __m256i low = _mm256_set1_epi8(15);
    XRows<int8_t> x(a);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    const int lines = (a.k + 7) / 8, slices = a.scales ? a.slices : 1;
    for (int slice = 0; slice < slices; ++slice) {
      NibbleSums<kRows> s;
      s.Start(a, slice);
      NibblePartials<kRows> partials;
      const auto add_line = [&](int l) __attribute__((always_inline)) {
        ahead.Fetch();
        ReadAgain(w);  // nothing of a line before its turn: there is no register for it
        const __m256i v0 = Load32(w + l * kLineBytes), v1 = Load32(w + l * kLineBytes + 32);
        partials.Step(x, 8 * l, _mm256_and_si256(v0, low), _mm256_and_si256(v1, low));
        partials.Step(x, 8 * l + 4, _mm256_and_si256(_mm256_srli_epi16(v0, 4), low),
                      _mm256_and_si256(_mm256_srli_epi16(v1, 4), low));
      };
      int l = 0;
      for (; l + kFoldedLines <= lines; l += kFoldedLines, w += kFoldedLines * kLineBytes, x.Advance(8 * kFoldedLines)) {
        partials.Clear();
#pragma GCC unroll 4
        for (int i = 0; i < kFoldedLines; ++i) add_line(i);
        s.Add(partials);
      }
      if (l < lines) {
        partials.Clear();
        for (; l < lines; ++l, w += kLineBytes, x.Advance(8)) add_line(0);
        s.Add(partials);
      }
      s.Finish(a, slice);
    }
  }
};

/// Both panels of a pair together, as one row or two want it that wait for memory.
template <int kRows>
struct GemmInt4Pair {
  static void Run(const GemmArgs& args) {
    const GemmArgs a = args, second = SecondOf(args);
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
      NibblePartials<kRows> p, q;
      const auto add_half = [&](NibblePartials<kRows>& partials, const uint8_t* line, int k) __attribute__((always_inline)) {
        partials.Step(x, k, _mm256_and_si256(Load32(line), low), _mm256_and_si256(Load32(line + 32), low));
        ReadAgain(line);
        partials.Step(x, k + 4, _mm256_and_si256(_mm256_srli_epi16(Load32(line), 4), low),
                      _mm256_and_si256(_mm256_srli_epi16(Load32(line + 32), 4), low));
      };
      const auto add_line = [&](int l) __attribute__((always_inline)) {
        ahead.Fetch();
        ReadAgain(w);
        add_half(p, w + l * kLineBytes, 8 * l);
        add_half(q, w + other + l * kLineBytes, 8 * l);
      };
      int l = 0;
      for (; l + kFoldedLines <= lines; l += kFoldedLines, w += kFoldedLines * kLineBytes, x.Advance(8 * kFoldedLines)) {
        p.Clear();
        q.Clear();
#pragma GCC unroll 4
        for (int i = 0; i < kFoldedLines; ++i) add_line(i);
        s.Add(p);
        t.Add(q);
      }
      if (l < lines) {
        p.Clear();
        q.Clear();
        for (; l < lines; ++l, w += kLineBytes, x.Advance(8)) add_line(0);
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
