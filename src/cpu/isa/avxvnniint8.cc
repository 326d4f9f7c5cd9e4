// SPDX-License-Identifier: Apache-2.0
// The kernel of AVX-VNNI-INT8: vpdpbssd takes weights and x signed as they are, so nothing is added to weights and no sum of
// x is needed: two xor per line less than AVX-VNNI's row. Nibbles, fp32 and stages gain nothing: int4 is AVX-VNNI's.
#include <immintrin.h>

#include "cpu/isa/avxvnni_gemm-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

struct SignedWeights {
  static constexpr int kOffset = 0;
  static __m256i Bytes(__m256i w) { return w; }
  /// Assembly, as GCC 12 lacks the intrinsic and Debian 12's assembler has the instruction. GCC 12 and clang 16 keep all sums
  /// in registers (tools/check_spills.py): 12 of it to 6 broadcasts and 2 loads per line, as of the intrinsic.
  static __m256i Add(__m256i sum, __m256i w, __m256i x) {
#if defined(QGMM_EMULATED_SIGNED_DOT)
    return QGMM_EMULATED_SIGNED_DOT(sum, w, x);
#else
    asm("vpdpbssd %2, %1, %0" : "+x"(sum) : "x"(w), "x"(x));
    return sum;
#endif
  }
};

template <int kRows>
using GemmInt8 = GemmBytes<SignedWeights, kRows>;

}  // namespace

constexpr Kernel kAvxVnniInt8Int8 = {.name = "avxvnniint8_int8", .isa = Isa::kAvxVnniInt8, .product = Product::kInt8,
                                     .tile_m = kTileRows, .min_rows = 1, .slice_step = 4, .k_block = 2048, .x_bytes = 1,
                                     .row_sums = false, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0,
                                     .widen = nullptr, .gemm = ForRows<kTileRows, GemmInt8>};

}  // namespace qgmm::cpu
