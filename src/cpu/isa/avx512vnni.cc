// SPDX-License-Identifier: Apache-2.0
// Kernels of AVX-512 with VNNI: one zmm is one line, so a panel's 16 columns are one accumulator per row. fp32 and the
// stages are plain AVX-512's.
#include <immintrin.h>

#include <cstdint>

#include "cpu/fixed-inl.h"
#include "cpu/for_rows-inl.h"
#include "cpu/isa/avx2.h"
#include "cpu/isa/avx2_fixed-inl.h"
#include "cpu/isa/avx512-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

constexpr int kTileRows = 16;  // 16 rows per expert: 140 GMAC/s, with tiles of 12 116 (one core of a Zen 4)
constexpr int kPairRows = 12;  // of both panels of a pair
static_assert(kTileRows + 4 + 2 <= kRegisters);

/// Where sums of unsigned weights (the weight + kOffset) and signed x start: what the offset adds is kOffset * sum(x) of the row
/// and slice. No sums per column, any slices, x as it is.
template <int kOffset>
inline __m512i StartOf(const int32_t* row_sum) {
  constexpr int kShift = kOffset == 128 ? 7 : 3;
  static_assert(1 << kShift == kOffset);
  return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(Broadcast4(row_sum), kShift));
}

template <int kRows, int kOffset>
inline __attribute__((always_inline)) void StartSums(const GemmArgs& a, int slice, __m512i (&c)[kRows]) {
  const int32_t* acc = static_cast<const int32_t*>(a.acc);
  const bool add = a.add && a.scales == nullptr;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    c[i] = add ? _mm512_loadu_si512(acc + i * kPairColumns) : StartOf<kOffset>(a.row_sums + i * a.row_sums_stride + slice);
  }
}

template <int kRows>
inline __attribute__((always_inline)) void FinishSums(const GemmArgs& a, int slice, const __m512i (&c)[kRows]) {
  if (a.scales) return Fold<kRows>(a, slice, c);
  int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) _mm512_storeu_si512(acc + i * kPairColumns, c[i]);
}

/// sum += the four products of unsigned weights and four signed bytes at x, in every lane. g++ knows no vpdpbusd that broadcasts
/// from memory itself, as clang does: an instruction less per row; int4 with slices of 128, 16 to 256 rows, takes 0.92 to 0.98 of
/// the time, of 32 0.90 to 0.94, int8 1.00 (two cores of a Zen 4); a Granite Rapids gained 10 and 3 %.
inline void DotFour(__m512i& sum, __m512i weights, const int8_t* x) {
#if defined(__AVX512VNNI__) && !defined(__clang__)
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*reinterpret_cast<const int8_t(*)[4]>(x)));
#else
  sum = _mm512_dpbusd_epi32(sum, weights, Broadcast4(x));
#endif
}

/// The same of x in a register; in place, where g++ 12 moves a third of the sums from register to register.
inline void DotInPlace(__m512i& sum, __m512i weights, __m512i x) {
#if defined(__AVX512VNNI__) && !defined(__clang__)
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(weights), "v"(x));
#else
  sum = _mm512_dpbusd_epi32(sum, weights, x);
#endif
}

template <int kRows, int kOffset>
struct IntegerSums {
  __m512i c[kRows];

  void Start(const GemmArgs& a, int slice) { StartSums<kRows, kOffset>(a, slice, c); }
  void Step(const GemmArgs& a, const int8_t* x, __m512i weights) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) DotFour(c[i], weights, x + i * a.x_stride);
  }
  void Add(const IntegerSums& other) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) c[i] = _mm512_add_epi32(c[i], other.c[i]);
  }
  void Finish(const GemmArgs& a, int slice) const { FinishSums<kRows>(a, slice, c); }
};

/// int8: per line one load, one xor (+ 128), one vpdpbusd per row; 64 multiply-adds each, modulo 2^32, never saturating.
template <int kRows>
struct GemmInt8 {
  static void Run(const GemmArgs& a) {
    const __m512i flip = _mm512_set1_epi8(-128);
    const int8_t* x = static_cast<const int8_t*>(a.x);
    Lines lines(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) {
      IntegerSums<kRows, 128> sums;
      sums.Start(a, slice);
      for (int k = 0; k < a.k; k += 4, x += 4) sums.Step(a, x, _mm512_xor_si512(lines.Next(), flip));
      sums.Finish(a, slice);
    }
  }
};

/// Both panels of a pair: a broadcast of x serves two vpdpbusd. kFlip: weights are signed as packed, and made unsigned here.
/// Not inlined: in one function with other numbers of rows GCC copied weights by way of the stack.
template <int kRows, int kOffset, bool kFlip>
struct GemmPair {
  static_assert(2 * kRows + 4 + 2 <= kRegisters);
  static __attribute__((noinline)) void Run(const GemmArgs& a) {
    const __m512i flip = _mm512_set1_epi8(-128);
    const int8_t* x = static_cast<const int8_t*>(a.x);
    GemmArgs second = a;
    if (a.scales) second.scales = a.scales + kPanelColumns;
    second.acc = static_cast<int32_t*>(a.acc) + kPanelColumns;
    const uint8_t *w = a.w[0], *next = a.prefetch[0];  // the other panel's by their distance: fewer registers
    const ptrdiff_t other = a.w[1] - w, other_next = a.prefetch[1] - next, next_step = a.prefetch_step;
    for (int slice = 0; slice < SliceCount(a); ++slice) {
      __m512i c[kRows], d[kRows];
      StartSums<kRows, kOffset>(a, slice, c);
      StartSums<kRows, kOffset>(second, slice, d);
      for (int k = 0; k < a.k; k += 4, x += 4, w += kLineBytes, next += next_step) {
        _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(next + other_next), _MM_HINT_T1);
        __m512i v = _mm512_loadu_si512(w), u = _mm512_loadu_si512(w + other);
        if constexpr (kFlip) {
          v = _mm512_xor_si512(v, flip);
          u = _mm512_xor_si512(u, flip);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
          const __m512i four = Broadcast4(x + i * a.x_stride);
          c[i] = _mm512_dpbusd_epi32(c[i], v, four);
          d[i] = _mm512_dpbusd_epi32(d[i], u, four);
        }
      }
      FinishSums<kRows>(a, slice, c);
      FinishSums<kRows>(second, slice, d);
    }
  }
};

/// int8. Two Granite Rapids cores, operator A, against a panel at a time: 8 and 16 rows +5 %, 64 and 256 +10 to +13 % (tiles of
/// 8 rows: +7, 0 to +5 %), but up to 4 rows, which memory bounds, -2 %. Two Zen 4 cores: 8 to 16 rows -5 to -19 %, more rows 0 to
/// +2 %, 20 rows of the down projection +16 %; two Zen 5 cores: 5 to 16 rows -3 to -25 %.
template <int kRows>
struct GemmInt8Pair : GemmPair<kRows, 128, true> {};

/// Rows of a call of slices by Slices, which takes kMost of them: all, or two parts as even as can be.
template <int kRows, int kMost, template <int> class Slices>
void InTwoParts(const GemmArgs& a) {
  static_assert(kRows <= 2 * kMost);
  constexpr int kFirst = kRows > kMost ? (kRows + 1) / 2 : kRows;
  Slices<kFirst>::Run(a);
  if constexpr (kFirst < kRows) {
    GemmArgs rest = a;
    rest.x = static_cast<const int8_t*>(a.x) + kFirst * a.x_stride;
    rest.row_sums += kFirst * a.row_sums_stride;
    rest.acc = static_cast<float*>(a.acc) + kFirst * kPairColumns;
    rest.prefetch_step = 0;  // fetched by the first part
    Slices<kRows - kFirst>::Run(rest);
  }
}

/// Slices of both panels of a pair, unpacked: what they are folded to stays in registers beside the sums.
template <int kRows>
struct GemmSlices {
  static_assert(4 * kRows + 4 + 2 <= kRegisters);
  static __attribute__((noinline)) void Run(const GemmArgs& a) {
    const int8_t* x = static_cast<const int8_t*>(a.x);
    const uint8_t *w = a.w[0], *next = a.prefetch[0];
    const ptrdiff_t other = a.w[1] - w, other_next = a.prefetch[1] - next, next_step = a.prefetch_step;
    float* folded = static_cast<float*>(a.acc);
    __m512 f[kRows], g[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      f[i] = a.add ? _mm512_loadu_ps(folded + i * kPairColumns) : _mm512_setzero_ps();
      g[i] = a.add ? _mm512_loadu_ps(folded + i * kPairColumns + kPanelColumns) : _mm512_setzero_ps();
    }
    for (int slice = 0; slice < a.slices; ++slice) {
      __m512i c[kRows], d[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) c[i] = d[i] = StartOf<8>(a.row_sums + i * a.row_sums_stride + slice);
      for (int k = 0; k < a.k; k += 4, x += 4, w += kLineBytes, next += next_step) {
        _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(next + other_next), _MM_HINT_T1);
        const __m512i v = _mm512_loadu_si512(w), u = _mm512_loadu_si512(w + other);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          const __m512i four = Broadcast4(x + i * a.x_stride);
          DotInPlace(c[i], v, four);
          DotInPlace(d[i], u, four);
        }
      }
      const float* scales = a.scales + slice * kPairColumns;
      const __m512 first = _mm512_loadu_ps(scales), second = _mm512_loadu_ps(scales + kPanelColumns);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        f[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(c[i]), first, f[i]);
        g[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(d[i]), second, g[i]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      _mm512_storeu_ps(folded + i * kPairColumns, f[i]);
      _mm512_storeu_ps(folded + i * kPairColumns + kPanelColumns, g[i]);
    }
  }
};

/// int4, unpacked once, for machines that issue two vpdpbusd a cycle: the three operations of a line share their ports with 32
/// vpdpbusd of GemmInt4, and each of those loads its x itself. Two Zen 5 cores, operator A, 17 to 256 rows: per channel 1.05 to
/// 1.20 x, slices of 128 1.04 to 1.13 x, of 32 1.10 to 1.20 x (25 rows 0.97 x); up to 16 rows 0.77 to 0.88 x.
/// Slices in two halves of the rows, six at most, against all twelve with what they are folded to in memory: of 32 1.08 to
/// 1.20 x, of 64 1.07 x, of 128 1.02 to 1.04 x, but in tiles of ten rows and fewer 0.98 and 0.95 x (the same cores).
template <int kRows>
struct GemmInt4Unpacked {
  static void Run(const GemmArgs& a) {
    constexpr int kShortSlice = 48, kManyRows = 11;
    if (!a.scales || (a.k > kShortSlice && kRows < kManyRows)) return GemmPair<kRows, 8, false>::Run(a);
    InTwoParts<kRows, kPairRows / 2, GemmSlices>(a);
  }
};

/// A line of nibbles as two of bytes, k ascending.
void NibblesToBytes(const uint8_t* lines, int line_count, uint8_t* out) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int l = 0; l < line_count; ++l, lines += kLineBytes, out += 2 * kLineBytes) {
    const __m512i v = _mm512_loadu_si512(lines);
    _mm512_storeu_si512(out, _mm512_and_si512(v, low));
    _mm512_storeu_si512(out + kLineBytes, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
  }
}

constexpr int kTwoChainRows = 4;

/// int4: the stored nibbles are + 8 already. Few rows sum the two halves of a line apart: one chain of vpdpbusd would wait
/// for itself. Into sums of the caller: returned, g++ 12 kept them in memory.
template <int kRows>
inline __attribute__((always_inline)) void SumNibbles(const GemmArgs& a, int slice, const int8_t*& x, Lines& lines,
                                                      IntegerSums<kRows, 8>& sums) {
  constexpr bool kTwoChains = kRows <= kTwoChainRows;
  const __m512i low = _mm512_set1_epi8(15);
  IntegerSums<kRows, 8> odd = {};
  sums.Start(a, slice);
  for (int k = 0; k < a.k; k += 8, x += 8) {
    const __m512i v = lines.Next();
    sums.Step(a, x, _mm512_and_si512(v, low));
    (kTwoChains ? odd : sums).Step(a, x + 4, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
  }
  if constexpr (kTwoChains) sums.Add(odd);
}

/// Slices of a panel: what they are folded to stays in registers beside the sums.
template <int kRows>
struct GemmInt4Slices {
  static_assert(2 * kRows + 3 + 2 <= kRegisters);
  static __attribute__((noinline)) void Run(const GemmArgs& a) {
    const int8_t* x = static_cast<const int8_t*>(a.x);
    Lines lines(a);
    float* folded = static_cast<float*>(a.acc);
    __m512 f[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) f[i] = a.add ? _mm512_loadu_ps(folded + i * kPairColumns) : _mm512_setzero_ps();
    for (int slice = 0; slice < a.slices; ++slice) {
      IntegerSums<kRows, 8> sums;
      SumNibbles(a, slice, x, lines, sums);
      const __m512 scale = _mm512_loadu_ps(a.scales + slice * kPairColumns);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) f[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums.c[i]), scale, f[i]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(folded + i * kPairColumns, f[i]);
  }
};

/// Short slices by GemmInt4Slices, from thirteen rows on in two parts, against all rows with what they are folded to in
/// memory: two Zen 5 cores, 5 to 16 rows, of 32 1.04 to 1.16 x, of 64 1.03 to 1.05 x, of 128 1.00 to 1.05 x; up to four rows
/// 0.93 to 1.01, which do without. Two parts shift every line twice: long slices would gain nothing for it (128, 16 rows: 1.00).
template <int kRows>
struct GemmInt4 {
  static void Run(const GemmArgs& a) {
    constexpr int kMost = 12, kShortSlice = kRows > kMost ? 64 : 128;
    if constexpr (kRows > kTwoChainRows) {
      if (a.scales && a.k <= kShortSlice) return InTwoParts<kRows, kMost, GemmInt4Slices>(a);
    }
    const int8_t* x = static_cast<const int8_t*>(a.x);
    Lines lines(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) {
      IntegerSums<kRows, 8> sums;
      SumNibbles(a, slice, x, lines, sums);
      sums.Finish(a, slice);
    }
  }
};

/// 16-bit floats as int16: a line is split into even bytes (k 0 and 2 of four) and odd ones, three shifts, and each is
/// one vpdpwssd per row, 32 multiply-adds. Both panels of a pair share the broadcasts of x: 256 rows 103 against 100 GMAC/s,
/// 16 rows 106 against 97 (panel by panel, 16 rows; one core of a Zen 4, whose limit is 118).
template <int kRows>
struct GemmFixed {
  static_assert(2 * kRows + 4 + 2 <= kRegisters);
  static void Run(const GemmArgs& a) {
    GemmArgs panel = a;
    __m512i c[kRows], d[kRows];
    int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      c[i] = a.add ? _mm512_loadu_si512(acc + i * kPairColumns) : _mm512_setzero_si512();
      d[i] = a.add ? _mm512_loadu_si512(acc + i * kPairColumns + kPanelColumns) : _mm512_setzero_si512();
    }
    const int16_t* x = static_cast<const int16_t*>(a.x);
    Lines first(a);
    panel.w[0] = a.w[1];
    panel.prefetch[0] = a.prefetch[1];
    Lines second(panel);
    const auto step = [&](const int16_t* at, __m512i v, __m512i u) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const __m512i pair = Broadcast4(reinterpret_cast<const int8_t*>(at + i * a.x_stride));
        c[i] = _mm512_dpwssd_epi32(c[i], v, pair);
        d[i] = _mm512_dpwssd_epi32(d[i], u, pair);
      }
    };
    for (int k = 0; k < a.k; k += 4, x += 4) {
      const __m512i v = first.Next(), u = second.Next();
      step(x, _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8), _mm512_srai_epi16(_mm512_slli_epi16(u, 8), 8));
      step(x + 2, _mm512_srai_epi16(v, 8), _mm512_srai_epi16(u, 8));
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      _mm512_storeu_si512(acc + i * kPairColumns, c[i]);
      _mm512_storeu_si512(acc + i * kPairColumns + kPanelColumns, d[i]);
    }
  }
};

}  // namespace

// k_block: x of a tile and the panel's stretch (16 KiB each; int4 8 KiB of panel) stay in L1. A pair's 64 KiB come from L2,
// tile after tile, and longer is better: 512, 1024, 2048 k have 0.96 to 0.98, 1, 1.01 to 1.02 of the speed (two Zen 4 cores,
// 64 to 1024 rows); an unpacked pair likewise, 256, 512, 1024, 2048 k: 0.95, 0.98, 1, 1.02 (two Zen 5 cores).
constexpr Kernel kAvx512VnniInt8 = {.name = "avx512vnni_int8", .isa = Isa::kAvx512Vnni, .product = Product::kInt8,
                                    .tile_m = kTileRows, .min_rows = 1, .slice_step = 4, .k_block = 1024,
                                    .ahead_bytes_of_one = kAheadOfOne, .x_bytes = 1, .row_sums = true, .folds = true,
                                    .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                    .gemm = ForRows<kTileRows, GemmInt8>};
constexpr Kernel kAvx512VnniInt8Pair = {.name = "avx512vnni_int8_pair", .isa = Isa::kAvx512Vnni, .product = Product::kInt8,
                                        .panels = 2, .tile_m = kPairRows, .min_rows = 8, .min_rows_amd = 17, .slice_step = 4,
                                        .k_block = 2048, .x_bytes = 1, .row_sums = true, .folds = true, .pack_x = PackXBytes,
                                        .widened_bytes = 0, .widen = nullptr, .gemm = ForRows<kPairRows, GemmInt8Pair>};
constexpr Kernel kAvx512VnniInt4 = {.name = "avx512vnni_int4", .isa = Isa::kAvx512Vnni, .product = Product::kInt4,
                                    .tile_m = kTileRows, .min_rows = 1, .slice_step = 8, .k_block = 1024, .x_bytes = 1,
                                    .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                    .gemm = ForRows<kTileRows, GemmInt4>};
constexpr Kernel kAvx512VnniInt4Unpacked = {.name = "avx512vnni_int4_unpacked", .isa = Isa::kAvx512Vnni,
                                            .product = Product::kInt4, .panels = 2, .tile_m = kPairRows, .min_rows = 17,
                                            .two_ports = true, .slice_step = 8, .k_block = 2048, .x_bytes = 1, .row_sums = true,
                                            .folds = true, .pack_x = PackXBytes, .widened_bytes = 2 * kLineBytes,
                                            .widen = NibblesToBytes, .gemm = ForRows<kPairRows, GemmInt4Unpacked>};
constexpr Kernel kAvx512VnniFixed = {.name = "avx512vnni_fixed", .isa = Isa::kAvx512Vnni, .product = Product::kFixed16,
                                     .panels = 2, .tile_m = kPairRows, .min_rows = 1, .slice_step = 4, .k_block = 512,
                                     .x_bytes = 2, .row_sums = false, .pack_x = PackXFixed<Avx2, EvenThenOdd>,
                                     .widened_bytes = 0, .widen = nullptr, .gemm = ForRows<kPairRows, GemmFixed>};

}  // namespace qgmm::cpu
