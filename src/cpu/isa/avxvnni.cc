// SPDX-License-Identifier: Apache-2.0
// Kernels of AVX-VNNI: vpdpbusd. As AVX-512's VNNI rows, the weights take the unsigned side, so no panel needs a
// certificate. fp32 and stages are AVX2's.
#include <immintrin.h>

#include <cstdint>

#include "cpu/isa/avxvnni_gemm-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

constexpr int kNibbleRows = 5;

struct UnsignedWeights {
  static constexpr int kOffset = 128;
  static __m256i Bytes(__m256i w) { return _mm256_xor_si256(w, _mm256_set1_epi8(-128)); }
  static __m256i Add(__m256i sum, __m256i w, __m256i x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
};

template <int kRows>
using GemmInt8 = GemmBytes<UnsignedWeights, kRows>;

/// int4: the stored nibbles are + 8 already.
template <int kRows>
struct GemmInt4 {
  static_assert(kRows * 2 + 4 + 1 + 1 <= kRegisters);
  static void Run(const GemmArgs& a) {
    const __m256i low = _mm256_set1_epi8(15);
    const int8_t* x = static_cast<const int8_t*>(a.x);
    Lines lines(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) {
      IntegerSums<UnsignedWeights, 8, kRows> sums;
      sums.Start(a, slice);
      for (int k = 0; k < a.k; k += 8, x += 8) {
        __m256i v[2];
        lines.Next(v);
        sums.Step(a, x, _mm256_and_si256(v[0], low), _mm256_and_si256(v[1], low));
        sums.Step(a, x + 4, _mm256_and_si256(_mm256_srli_epi16(v[0], 4), low),
                  _mm256_and_si256(_mm256_srli_epi16(v[1], 4), low));
      }
      sums.Finish(a, slice);
    }
  }
};

}  // namespace

constexpr Kernel kAvxVnniInt8 = {.name = "avxvnni_int8", .isa = Isa::kAvxVnni, .product = Product::kInt8,
                                 .tile_m = kTileRows, .min_rows = 1, .slice_step = 4, .k_block = 2048,
                                 .ahead_bytes_of_one = kAheadOfOne, .x_bytes = 1, .row_sums = true, .folds = true,
                                 .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                 .gemm = ForRows<kTileRows, GemmInt8>};
constexpr Kernel kAvxVnniInt4 = {.name = "avxvnni_int4", .isa = Isa::kAvxVnni, .product = Product::kInt4,
                                 .tile_m = kNibbleRows, .min_rows = 1, .slice_step = 8, .k_block = 2048, .x_bytes = 1,
                                 .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0,
                                 .widen = nullptr, .gemm = ForRows<kNibbleRows, GemmInt4>};

}  // namespace qgmm::cpu
