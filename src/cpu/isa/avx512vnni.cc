// SPDX-License-Identifier: Apache-2.0
// Kernels of AVX-512 with VNNI: one zmm is one line, so a panel's 16 columns are one accumulator per row. fp32 is plain
// AVX-512's, stages are AVX2's.
#include <immintrin.h>

#include <cstdint>

#include "cpu/for_rows-inl.h"
#include "cpu/isa/avx512-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

constexpr int kTileRows = 16;  // 16 rows per expert: 140 GMAC/s, with tiles of 12 116 (one core of a Zen 4)
static_assert(kTileRows + 4 + 2 <= kRegisters);

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
    if (a.scales) return Fold<kRows>(a, slice, c);
    int32_t* acc = static_cast<int32_t*>(a.acc);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) _mm512_storeu_si512(acc + i * kPairColumns, c[i]);
  }
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

}  // namespace

// k_block: x of a tile and the panel's stretch (16 KiB each; int4 8 KiB of panel) stay in L1.
constexpr Kernel kAvx512VnniInt8 = {.name = "avx512vnni_int8", .isa = Isa::kAvx512Vnni, .product = Product::kInt8,
                                    .tile_m = kTileRows, .min_rows = 1, .slice_step = 4, .k_block = 1024, .x_bytes = 1,
                                    .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                    .gemm = ForRows<kTileRows, GemmInt8>};
constexpr Kernel kAvx512VnniInt4 = {.name = "avx512vnni_int4", .isa = Isa::kAvx512Vnni, .product = Product::kInt4,
                                    .tile_m = kTileRows, .min_rows = 1, .slice_step = 8, .k_block = 1024, .x_bytes = 1,
                                    .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                    .gemm = ForRows<kTileRows, GemmInt4>};
}  // namespace qgmm::cpu
