// SPDX-License-Identifier: Apache-2.0
// Kernels of AVX-512 with VNNI: one zmm is one line, so a panel's 16 columns are one accumulator per row. Stages are AVX2's.
#include <immintrin.h>

#include <cstdint>

#include "cpu/for_rows-inl.h"
#include "cpu/isa/avx2.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

constexpr int kTileRows = 16;  // 16 rows per expert: 140 GMAC/s, with tiles of 12 116 (one core of a Zen 4)
constexpr int kRegisters = 32;
static_assert(kTileRows + 4 + 2 <= kRegisters);

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
inline __m512i Broadcast4(const int8_t* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof(v));
  return _mm512_set1_epi32(v);  // from memory: the load ports do it
}

/// Sums of unsigned weights (the weight + kOffset) and signed x. The weights take the unsigned side, so what the offset
/// added is kOffset * sum(x) of the row and slice: no sums per column, any slices, x as it is.
template <int kRows, int kOffset>
struct IntegerSums {
  __m512i c[kRows];

  void Start(const GemmArgs& a, int slice) {
    const int32_t* acc = static_cast<const int32_t*>(a.acc);
    const bool add = a.add && a.scales == nullptr;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const uint32_t sum = static_cast<uint32_t>(a.row_sums[i * a.row_sums_stride + slice]);
      const int32_t start = static_cast<int32_t>(0u - static_cast<uint32_t>(kOffset) * sum);
      c[i] = add ? _mm512_loadu_si512(acc + i * kPairColumns) : _mm512_set1_epi32(start);
    }
  }
  void Step(const GemmArgs& a, const int8_t* x, __m512i weights) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) c[i] = _mm512_dpbusd_epi32(c[i], weights, Broadcast4(x + i * a.x_stride));
  }
  void Add(const IntegerSums& other) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) c[i] = _mm512_add_epi32(c[i], other.c[i]);
  }
  void Finish(const GemmArgs& a, int slice) const {
    if (a.scales) return Fold(a, slice);
    int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) _mm512_storeu_si512(acc + i * kPairColumns, c[i]);
  }
  void Fold(const GemmArgs& a, int slice) const {
    const __m512 scale = _mm512_loadu_ps(a.scales + slice * kPairColumns);
    float* folded = static_cast<float*>(a.acc);
    const bool first = slice == 0 && !a.add;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const __m512 before = first ? _mm512_setzero_ps() : _mm512_loadu_ps(folded + i * kPairColumns);
      _mm512_storeu_ps(folded + i * kPairColumns, _mm512_fmadd_ps(_mm512_cvtepi32_ps(c[i]), scale, before));
    }
  }
};

/// Slices of a call: one, unless it folds.
inline int SliceCount(const GemmArgs& a) { return a.scales ? a.slices : 1; }

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

/// int4: the stored nibbles are + 8 already. Few rows sum the two halves of a line apart: one chain of vpdpbusd would wait
/// for itself.
template <int kRows>
struct GemmInt4 {
  static constexpr bool kTwoChains = kRows <= 4;
  static void Run(const GemmArgs& a) {
    const __m512i low = _mm512_set1_epi8(15);
    const int8_t* x = static_cast<const int8_t*>(a.x);
    Lines lines(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) {
      IntegerSums<kRows, 8> sums, odd = {};
      sums.Start(a, slice);
      for (int k = 0; k < a.k; k += 8, x += 8) {
        const __m512i v = lines.Next();
        sums.Step(a, x, _mm512_and_si512(v, low));
        (kTwoChains ? odd : sums).Step(a, x + 4, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
      }
      if constexpr (kTwoChains) sums.Add(odd);
      sums.Finish(a, slice);
    }
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

/// Both panels of a pair together: the four sums that follow one another in a lane's chain take longer than a line takes to
/// arrive, so one or two rows want more chains: one row 12.8 -> 15.6
/// GMAC/s, two 23.6 -> 25.3; three and four the same as apart (one core of a Zen 4).
template <int kRows>
struct GemmFloatPair {
  static void Run(const GemmArgs& a) {
    GemmArgs panel = a;
    __m512 c[kRows], d[kRows];
    float* acc = static_cast<float*>(a.acc);
#pragma GCC unroll 2
    for (int i = 0; i < kRows; ++i) {
      c[i] = a.add ? _mm512_loadu_ps(acc + i * kPairColumns) : _mm512_setzero_ps();
      d[i] = a.add ? _mm512_loadu_ps(acc + i * kPairColumns + kPanelColumns) : _mm512_setzero_ps();
    }
    const float* x = static_cast<const float*>(a.x);
    Lines first(a);
    panel.w[0] = a.w[1];
    panel.prefetch[0] = a.prefetch[1];
    Lines second(panel);
    const auto step = [&](const float* at, __m512 v, __m512 u) __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int i = 0; i < kRows; ++i) {
        const __m512 value = _mm512_set1_ps(at[i * a.x_stride]);
        c[i] = _mm512_fmadd_ps(value, v, c[i]);
        d[i] = _mm512_fmadd_ps(value, u, d[i]);
      }
    };
    for (int k = 0; k < a.k; k += 4, x += 4) {
      const __m512i v = first.Next(), u = second.Next();
      step(x, ByteAsFloat<0>(v), ByteAsFloat<0>(u));
      step(x + 1, ByteAsFloat<1>(v), ByteAsFloat<1>(u));
      step(x + 2, ByteAsFloat<2>(v), ByteAsFloat<2>(u));
      step(x + 3, ByteAsFloat<3>(v), ByteAsFloat<3>(u));
    }
#pragma GCC unroll 2
    for (int i = 0; i < kRows; ++i) {
      _mm512_storeu_ps(acc + i * kPairColumns, c[i]);
      _mm512_storeu_ps(acc + i * kPairColumns + kPanelColumns, d[i]);
    }
  }
};

}  // namespace

// k_block: x of a tile and the panel's stretch (16 KiB each; int4 8 KiB, fp32 4 KiB of panel) stay in L1.
constexpr Kernel kAvx512VnniInt8 = {.name = "avx512vnni_int8", .isa = Isa::kAvx512Vnni, .product = Product::kInt8,
                                    .tile_m = kTileRows, .min_rows = 1, .slice_step = 4, .k_block = 1024, .x_bytes = 1,
                                    .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                    .gemm = ForRows<kTileRows, GemmInt8>};
constexpr Kernel kAvx512VnniInt4 = {.name = "avx512vnni_int4", .isa = Isa::kAvx512Vnni, .product = Product::kInt4,
                                    .tile_m = kTileRows, .min_rows = 1, .slice_step = 8, .k_block = 1024, .x_bytes = 1,
                                    .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                    .gemm = ForRows<kTileRows, GemmInt4>};
constexpr Kernel kAvx512VnniFloatPair = {.name = "avx512vnni_float_pair", .isa = Isa::kAvx512Vnni,
                                         .product = Product::kFloat, .panels = 2, .tile_m = 2, .min_rows = 1,
                                         .slice_step = 4, .k_block = 256, .x_bytes = 4, .row_sums = false,
                                         .pack_x = PackXFloats<Avx2>, .widened_bytes = 0, .widen = nullptr,
                                         .gemm = ForRows<2, GemmFloatPair>};
constexpr Kernel kAvx512VnniFloat = {.name = "avx512vnni_float", .isa = Isa::kAvx512Vnni, .product = Product::kFloat,
                                     .tile_m = kTileRows, .min_rows = 3, .slice_step = 4, .k_block = 256, .x_bytes = 4,
                                     .row_sums = false, .pack_x = PackXFloats<Avx2>, .widened_bytes = 0,
                                     .widen = nullptr, .gemm = ForRows<kTileRows, GemmFloat>};

}  // namespace qgmm::cpu
