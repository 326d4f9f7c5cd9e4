// SPDX-License-Identifier: Apache-2.0
// Kernels of AVX-512 (F, BW, VL) without VNNI: AVX2's products in zmm, where one register is one line; strict fp32, and
// the stages, for machines with VNNI too.
#include <immintrin.h>

#include <cstdint>

#include "cpu/epilogue-inl.h"
#include "cpu/for_rows-inl.h"
#include "cpu/isa/avx2.h"
#include "cpu/isa/avx2_experts-inl.h"
#include "cpu/isa/avx512-inl.h"
#include "cpu/isa/avx512.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

constexpr int kTileRows = 16, kNibbleRows = 12, kPairRows = 12;

/// The accumulators of kRows rows x 16 columns, int32.
template <int kRows>
struct Sums {
  __m512i c[kRows];

  void Start(const GemmArgs& a, __m512i start) {
    const int32_t* acc = static_cast<const int32_t*>(a.acc);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) c[i] = a.add ? _mm512_loadu_si512(acc + i * kPairColumns) : start;
  }
  void Finish(const GemmArgs& a) const {
    int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) _mm512_storeu_si512(acc + i * kPairColumns, c[i]);
  }
};

/// int8, any: bytes become int16 by shifts. Per line and row 2 broadcasts, 2 vpmaddwd, 2 vpaddd = 64 multiply-adds.
template <int kRows>
struct GemmWide {
  static_assert(kRows + 3 + 2 <= kRegisters);
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums;
    sums.Start(a, _mm512_set1_epi32(0));
    const int16_t* x = static_cast<const int16_t*>(a.x);
    Lines lines(a);
    for (int k = 0; k < a.k; k += 4, x += 4) {
      const __m512i v = lines.Next();
      const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(v, 8), 8), odd = _mm512_srai_epi16(v, 8);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const __m512i x02 = Broadcast4(x + i * a.x_stride), x13 = Broadcast4(x + i * a.x_stride + 2);
        sums.c[i] = _mm512_add_epi32(sums.c[i], _mm512_add_epi32(_mm512_madd_epi16(even, x02), _mm512_madd_epi16(odd, x13)));
      }
    }
    sums.Finish(a);
  }
};

/// -128 * the columns' sums: what x + 128 adds.
inline __m512i CertifiedStart(const GemmArgs& a) {
  return _mm512_sub_epi32(_mm512_set1_epi32(0), _mm512_slli_epi32(_mm512_loadu_si512(a.column_sums[0]), 7));
}

/// kPairs: u8 x (+ 128) by s8 weights. Per line and row 1 broadcast, 1 vpmaddubsw, 1 vpmaddwd, 1 vpaddd.
template <int kRows>
struct GemmPairs {
  static_assert(kRows + 2 + 2 <= kRegisters);
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums;
    sums.Start(a, CertifiedStart(a));
    const __m512i ones = _mm512_set1_epi16(1);
    const uint8_t* x = static_cast<const uint8_t*>(a.x);
    Lines lines(a);
    for (int k = 0; k < a.k; k += 4, x += 4) {
      const __m512i v = lines.Next();
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const __m512i pairs = _mm512_maddubs_epi16(Broadcast4(x + i * a.x_stride), v);
        sums.c[i] = _mm512_add_epi32(sums.c[i], _mm512_madd_epi16(pairs, ones));
      }
    }
    sums.Finish(a);
  }
};

/// kQuads: two lines' products are added in int16 first. Per two lines and row 2 broadcasts, 2 vpmaddubsw, 1 vpaddw, 1
/// vpmaddwd, 1 vpaddd = 128 multiply-adds.
template <int kRows>
struct GemmQuads {
  static_assert(kRows + 3 + 3 <= kRegisters);
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums;
    sums.Start(a, CertifiedStart(a));
    const __m512i ones = _mm512_set1_epi16(1);
    const uint8_t* x = static_cast<const uint8_t*>(a.x);
    Lines lines(a);
    for (int k = 0; k < a.k; k += 8, x += 8) {
      const __m512i v0 = lines.Next(), v1 = lines.Next();
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const __m512i quads = _mm512_add_epi16(_mm512_maddubs_epi16(Broadcast4(x + i * a.x_stride), v0),
                                               _mm512_maddubs_epi16(Broadcast4(x + i * a.x_stride + 4), v1));
        sums.c[i] = _mm512_add_epi32(sums.c[i], _mm512_madd_epi16(quads, ones));
      }
    }
    sums.Finish(a);
  }
};

/// int4: u4 x s8, int16 partials of at most eight steps (8 * 2 * 15 * 128 = 30720 fits), which are four lines.
template <int kRows>
struct GemmInt4 {
  static_assert(kRows * 2 + 3 + 2 <= kRegisters);
  static void Run(const GemmArgs& a) {
    const int8_t* x = static_cast<const int8_t*>(a.x);
    Lines lines(a);
    const int count = (a.k + 7) / 8;
    for (int slice = 0; slice < SliceCount(a); ++slice) {
      Sums<kRows> sums;
      sums.Start(a, _mm512_set1_epi32(0));
      if (!a.add || a.scales) {
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) sums.c[i] = _mm512_set1_epi32(-8 * a.row_sums[i * a.row_sums_stride + slice]);
      }
      for (int l = 0; l < count;) {
        const int end = l + 4 < count ? l + 4 : count;
        FourLines(a, x, end - l, lines, sums);
        x += 8 * (end - l);
        l = end;
      }
      a.scales ? Fold<kRows>(a, slice, sums.c) : sums.Finish(a);
    }
  }
  static inline __attribute__((always_inline)) void FourLines(const GemmArgs& a, const int8_t* x, int count, Lines& lines,
                                                              Sums<kRows>& sums) {
    const __m512i low = _mm512_set1_epi8(15), ones = _mm512_set1_epi16(1);
    __m512i partial[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) partial[i] = _mm512_set1_epi32(0);
    for (int l = 0; l < count; ++l, x += 8) {
      const __m512i v = lines.Next();
      const __m512i b0 = _mm512_and_si512(v, low), b1 = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const __m512i first = _mm512_maddubs_epi16(b0, Broadcast4(x + i * a.x_stride));
        const __m512i second = _mm512_maddubs_epi16(b1, Broadcast4(x + i * a.x_stride + 4));
        partial[i] = _mm512_add_epi16(partial[i], _mm512_add_epi16(first, second));
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) sums.c[i] = _mm512_add_epi32(sums.c[i], _mm512_madd_epi16(partial[i], ones));
  }
};

/// Byte kByte of every column's four, as fp32.
template <int kByte>
inline __m512 ByteAsFloat(__m512i v) {
  if constexpr (kByte < 3) v = _mm512_slli_epi32(v, 24 - 8 * kByte);
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(v, 24));
}

/// Strict fp32: k ascending in one lane, the bits of every other ISA.
template <int kRows>
struct GemmFloat {
  static void Run(const GemmArgs& a) {
    __m512 c[kRows];
    float* acc = static_cast<float*>(a.acc);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) c[i] = a.add ? _mm512_loadu_ps(acc + i * kPairColumns) : _mm512_setzero_ps();
    const float* x = static_cast<const float*>(a.x);
    Lines lines(a);
    const auto step = [&](const float* at, __m512 weights) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) c[i] = _mm512_fmadd_ps(_mm512_set1_ps(at[i * a.x_stride]), weights, c[i]);
    };
    for (int k = 0; k < a.k; k += 4, x += 4) {
      const __m512i v = lines.Next();
      step(x, ByteAsFloat<0>(v));
      step(x + 1, ByteAsFloat<1>(v));
      step(x + 2, ByteAsFloat<2>(v));
      step(x + 3, ByteAsFloat<3>(v));
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) _mm512_storeu_ps(acc + i * kPairColumns, c[i]);
  }
};

/// fp32 sums of both panels of a pair; k ascending in one lane.
template <int kRows>
struct FloatPairSums {
  __m512 c[kRows], d[kRows];

  void Start(const GemmArgs& a) {
    const float* acc = static_cast<const float*>(a.acc);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      c[i] = a.add ? _mm512_loadu_ps(acc + i * kPairColumns) : _mm512_setzero_ps();
      d[i] = a.add ? _mm512_loadu_ps(acc + i * kPairColumns + kPanelColumns) : _mm512_setzero_ps();
    }
  }
  void Step(const float* x, ptrdiff_t x_stride, __m512 v, __m512 u) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512 value = _mm512_set1_ps(x[i * x_stride]);
      c[i] = _mm512_fmadd_ps(value, v, c[i]);
      d[i] = _mm512_fmadd_ps(value, u, d[i]);
    }
  }
  void Finish(const GemmArgs& a) const {
    float* acc = static_cast<float*>(a.acc);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      _mm512_storeu_ps(acc + i * kPairColumns, c[i]);
      _mm512_storeu_ps(acc + i * kPairColumns + kPanelColumns, d[i]);
    }
  }
};

/// Both panels of a pair together: the four sums that follow one another in a lane's chain take longer than a line takes to
/// arrive, so one or two rows want more chains: one row 12.8 -> 15.6
/// GMAC/s, two 23.6 -> 25.3; three and four the same as apart (one core of a Zen 4).
template <int kRows>
struct GemmFloatPair {
  static void Run(const GemmArgs& a) {
    FloatPairSums<kRows> sums;
    sums.Start(a);
    const float* x = static_cast<const float*>(a.x);
    GemmArgs panel = a;
    Lines first(a);
    panel.w[0] = a.w[1];
    panel.prefetch[0] = a.prefetch[1];
    Lines second(panel);
    for (int k = 0; k < a.k; k += 4, x += 4) {
      const __m512i v = first.Next(), u = second.Next();
      sums.Step(x, a.x_stride, ByteAsFloat<0>(v), ByteAsFloat<0>(u));
      sums.Step(x + 1, a.x_stride, ByteAsFloat<1>(v), ByteAsFloat<1>(u));
      sums.Step(x + 2, a.x_stride, ByteAsFloat<2>(v), ByteAsFloat<2>(u));
      sums.Step(x + 3, a.x_stride, ByteAsFloat<3>(v), ByteAsFloat<3>(u));
    }
    sums.Finish(a);
  }
};

/// A line as four rows of 16 fp32, k ascending.
void WidenToFloats(const uint8_t* lines, int line_count, uint8_t* out) {
  float* f = reinterpret_cast<float*>(out);
  for (int l = 0; l < line_count; ++l, lines += kLineBytes, f += kLineBytes) {
    const __m512i v = _mm512_loadu_si512(lines);
    _mm512_storeu_ps(f, ByteAsFloat<0>(v));
    _mm512_storeu_ps(f + 16, ByteAsFloat<1>(v));
    _mm512_storeu_ps(f + 32, ByteAsFloat<2>(v));
    _mm512_storeu_ps(f + 48, ByteAsFloat<3>(v));
  }
}

/// A pair converted once, for machines that issue two 512-bit fma a cycle: the eleven shifts and conversions of a line share
/// their ports with 64 fma of GemmFloat, and each of those loads its x itself, where here two share a broadcast. Two Zen 5
/// cores, k 2048: 17 to 24 rows 1.30 to 1.09 x, 64 rows 1.14 x, 256 rows 1.18 x, k 7168 1.29 x; up to 16 rows 0.72 to 0.92 x.
/// Four k at once are 1 to 2 % faster, but GCC then lets sums change registers, two of them by way of the stack.
template <int kRows>
struct GemmFloats {
  static_assert(2 * kRows + 2 + 1 <= kRegisters);
  static void Run(const GemmArgs& a) {
    FloatPairSums<kRows> sums;
    sums.Start(a);
    const float* x = static_cast<const float*>(a.x);
    const float* w = reinterpret_cast<const float*>(a.w[0]);
    const ptrdiff_t other = reinterpret_cast<const float*>(a.w[1]) - w;
    const uint8_t* next = a.prefetch[0];
    const ptrdiff_t other_next = a.prefetch[1] - next, next_step = a.prefetch_step;
    for (int k = 0; k < a.k; k += 4, next += next_step) {
      _mm_prefetch(reinterpret_cast<const char*>(next), _MM_HINT_T1);
      _mm_prefetch(reinterpret_cast<const char*>(next + other_next), _MM_HINT_T1);
#pragma GCC unroll 1
      for (const float* end = x + 4; x < end; ++x, w += kPanelColumns) {
        sums.Step(x, a.x_stride, _mm512_loadu_ps(w), _mm512_loadu_ps(w + other));
      }
    }
    sums.Finish(a);
  }
};

}  // namespace

// Loops alone from L1, 48 rows, against AVX2's rows: wide 94 / 85 GMAC/s, pairs 111 / 110, quads 145 / 141, int4 161 / 129,
// fp32 56 / 51 (one core of a Zen 4, which splits most zmm operations in two; GCC 12).
// k_block: x of a tile and the panel's stretch (int8 16 to 32 KiB of x, fp32 4 KiB of panel) stay in L1 or close to it; a
// converted pair is 32 KiB then (128, 384, 512 k: 0.97, 1.00, 1.01 of the speed; two Zen 5 cores).
constexpr Kernel kAvx512Wide = {.name = "avx512_wide", .isa = Isa::kAvx512, .product = Product::kInt8,
                                .tile_m = kTileRows, .min_rows = 1, .slice_step = 4, .k_block = 1024, .x_bytes = 2,
                                .row_sums = false, .pack_x = PackXShorts, .widened_bytes = 0, .widen = nullptr,
                                .gemm = ForRows<kTileRows, GemmWide>};
constexpr Kernel kAvx512Pairs = {.name = "avx512_pairs", .isa = Isa::kAvx512, .product = Product::kInt8,
                                 .needs = Certificate::kPairs, .tile_m = kTileRows, .min_rows = 1, .slice_step = 4,
                                 .k_block = 1024, .ahead_bytes_of_one = kAheadOfOne, .x_bytes = 1,
                                 .row_sums = false, .pack_x = PackXUnsigned, .widened_bytes = 0, .widen = nullptr,
                                 .gemm = ForRows<kTileRows, GemmPairs>};
constexpr Kernel kAvx512Quads = {.name = "avx512_quads", .isa = Isa::kAvx512, .product = Product::kInt8,
                                 .needs = Certificate::kQuads, .tile_m = kTileRows, .min_rows = 1, .slice_step = 8,
                                 .k_block = 1024, .ahead_bytes_of_one = kAheadOfOne, .x_bytes = 1,
                                 .row_sums = false, .pack_x = PackXUnsigned, .widened_bytes = 0, .widen = nullptr,
                                 .gemm = ForRows<kTileRows, GemmQuads>};
constexpr Kernel kAvx512Int4 = {.name = "avx512_int4", .isa = Isa::kAvx512, .product = Product::kInt4,
                                .tile_m = kNibbleRows, .min_rows = 1, .slice_step = 8, .k_block = 1024, .x_bytes = 1,
                                .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0,
                                .widen = nullptr, .gemm = ForRows<kNibbleRows, GemmInt4>};
constexpr Kernel kAvx512FloatPair = {.name = "avx512_float_pair", .isa = Isa::kAvx512, .product = Product::kFloat,
                                     .panels = 2, .tile_m = 2, .min_rows = 1, .slice_step = 4, .k_block = 256,
                                     .x_bytes = 4, .row_sums = false, .pack_x = PackXFloats<Avx2>, .widened_bytes = 0,
                                     .widen = nullptr, .gemm = ForRows<2, GemmFloatPair>};
constexpr Kernel kAvx512Float = {.name = "avx512_float", .isa = Isa::kAvx512, .product = Product::kFloat,
                                 .tile_m = kTileRows, .min_rows = 3, .slice_step = 4, .k_block = 256, .x_bytes = 4,
                                 .row_sums = false, .pack_x = PackXFloats<Avx2>, .widened_bytes = 0,
                                 .widen = nullptr, .gemm = ForRows<kTileRows, GemmFloat>};
constexpr Kernel kAvx512FloatUnpacked = {.name = "avx512_float_unpacked", .isa = Isa::kAvx512, .product = Product::kFloat,
                                         .panels = 2, .tile_m = kPairRows, .min_rows = 17, .two_ports = true, .slice_step = 4,
                                         .k_block = 256, .x_bytes = 4, .row_sums = false, .pack_x = PackXFloats<Avx2>,
                                         .widened_bytes = 4 * kLineBytes, .widen = WidenToFloats,
                                         .gemm = ForRows<kPairRows, GemmFloats>};

// row_max stays AVX2's: rows of fp32 from memory take 0.88 of the time, of bf16 0.99 (one core of a Zen 4).
constexpr Stages kAvx512Stages = MakeStages<Avx512, Avx2>(Isa::kAvx512, kAvx2Lines);

}  // namespace qgmm::cpu
