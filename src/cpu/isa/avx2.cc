// SPDX-License-Identifier: Apache-2.0
// The table rows of AVX2; the loops are in avx2_*-inl.h, the stages are the shared ones over Avx2's vocabulary.
#include "cpu/isa/avx2.h"

#include "cpu/epilogue-inl.h"
#include "cpu/isa/avx2_certified-inl.h"
#include "cpu/isa/avx2_fixed-inl.h"
#include "cpu/isa/avx2_float-inl.h"
#include "cpu/isa/avx2_gemm-inl.h"
#include "cpu/isa/avx2_int4-inl.h"
#include "cpu/isa/avx2_experts-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {

// min_rows of the unpacked rows: fewer rows do better expanding a panel per tile of 4. int8: 16 rows 65 against 59 GMAC/s, 64
// rows 77 either way (one core of a Zen 4, GCC 12); on a Zen 3 that shares its cores they are level from 64 rows on. fp32 on
// that Zen 3: 16 rows level, 18 rows 1.10 x, 64 rows 1.16 x.
constexpr Kernel kAvx2Wide = {.name = "avx2_wide", .isa = Isa::kAvx2, .product = Product::kInt8,
                              .tile_m = 4, .min_rows = 1, .slice_step = 4, .k_block = 0, .x_bytes = 2,
                              .row_sums = false, .pack_x = PackXShorts, .widened_bytes = 0, .widen = nullptr,
                              .gemm = ForRows<4, GemmWide>};
constexpr Kernel kAvx2WidePair = {.name = "avx2_wide_pair", .isa = Isa::kAvx2, .product = Product::kInt8, .panels = 2,
                                  .tile_m = 2, .min_rows = 1, .two_streams = true, .slice_step = 4, .k_block = 0, .x_bytes = 2,
                                  .row_sums = false, .pack_x = PackXShorts, .widened_bytes = 0, .widen = nullptr,
                                  .gemm = ForRows<2, GemmWidePair>};
constexpr Kernel kAvx2WideUnpacked = {.name = "avx2_wide_unpacked", .isa = Isa::kAvx2, .product = Product::kInt8,
                                      .tile_m = 6, .min_rows = 48, .slice_step = 4, .k_block = 1024, .x_bytes = 2,
                                      .row_sums = false, .pack_x = PackXShorts, .widened_bytes = 2 * kLineBytes,
                                      .widen = WidenToShorts,
                                      .gemm = ForRows<6, GemmShorts>};
constexpr Kernel kAvx2Pairs = {.name = "avx2_pairs", .isa = Isa::kAvx2, .product = Product::kInt8,
                               .needs = Certificate::kPairs, .tile_m = 6, .min_rows = 1, .slice_step = 4, .k_block = 0,
                               .ahead_bytes_of_one = kAheadOfOne, .x_bytes = 1, .row_sums = false,
                               .pack_x = PackXUnsigned, .widened_bytes = 0, .widen = nullptr,
                               .gemm = ForRows<6, GemmPairs>};
constexpr Kernel kAvx2PairsPair = {.name = "avx2_pairs_pair", .isa = Isa::kAvx2, .product = Product::kInt8,
                                   .needs = Certificate::kPairs, .panels = 2, .tile_m = 2, .min_rows = 1,
                                   .two_streams = true, .slice_step = 4, .k_block = 0, .ahead_bytes_of_one = kAheadOfOne,
                                   .x_bytes = 1, .row_sums = false, .pack_x = PackXUnsigned, .widened_bytes = 0,
                                   .widen = nullptr, .gemm = ForRows<2, GemmPairsPair>};
constexpr Kernel kAvx2Quads = {.name = "avx2_quads", .isa = Isa::kAvx2, .product = Product::kInt8,
                               .needs = Certificate::kQuads, .tile_m = 4, .min_rows = 1, .slice_step = 8, .k_block = 0,
                               .ahead_bytes_of_one = kAheadOfOne, .x_bytes = 1, .row_sums = false,
                               .pack_x = PackXUnsigned, .widened_bytes = 0, .widen = nullptr,
                               .gemm = ForRows<4, GemmQuads>};
constexpr Kernel kAvx2QuadsPair = {.name = "avx2_quads_pair", .isa = Isa::kAvx2, .product = Product::kInt8,
                                   .needs = Certificate::kQuads, .panels = 2, .tile_m = 2, .min_rows = 1,
                                   .two_streams = true, .slice_step = 8, .k_block = 0, .ahead_bytes_of_one = kAheadOfOne,
                                   .x_bytes = 1, .row_sums = false, .pack_x = PackXUnsigned, .widened_bytes = 0,
                                   .widen = nullptr, .gemm = ForRows<2, GemmQuadsPair>};
constexpr Kernel kAvx2Int4 = {.name = "avx2_int4", .isa = Isa::kAvx2, .product = Product::kInt4,
                              .tile_m = 4, .min_rows = 1, .slice_step = 8, .k_block = 0, .x_bytes = 1,
                              .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                              .gemm = ForRows<4, GemmInt4>};
constexpr Kernel kAvx2Int4Pair = {.name = "avx2_int4_pair", .isa = Isa::kAvx2, .product = Product::kInt4, .panels = 2,
                                  .tile_m = 2, .min_rows = 1, .two_streams = true, .slice_step = 8, .k_block = 0, .x_bytes = 1,
                                  .row_sums = true, .folds = true, .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                  .gemm = ForRows<2, GemmInt4Pair>};
constexpr Kernel kAvx2Float = {.name = "avx2_float", .isa = Isa::kAvx2, .product = Product::kFloat,
                               .tile_m = 4, .min_rows = 3, .slice_step = 4, .k_block = 0, .x_bytes = 4,
                               .row_sums = false, .pack_x = PackXFloats<Avx2>, .widened_bytes = 0, .widen = nullptr,
                               .gemm = ForRows<4, GemmFloat>};
constexpr Kernel kAvx2FloatPair = {.name = "avx2_float_pair", .isa = Isa::kAvx2, .product = Product::kFloat, .panels = 2,
                                   .tile_m = 2, .min_rows = 1, .slice_step = 4, .k_block = 0, .x_bytes = 4,
                                   .row_sums = false, .pack_x = PackXFloats<Avx2>, .widened_bytes = 0, .widen = nullptr,
                                   .gemm = ForRows<2, GemmFloatPair>};
constexpr Kernel kAvx2FloatUnpacked = {.name = "avx2_float_unpacked", .isa = Isa::kAvx2, .product = Product::kFloat,
                                       .tile_m = 6, .min_rows = 18, .slice_step = 4, .k_block = 256, .x_bytes = 4,
                                       .row_sums = false, .pack_x = PackXFloats<Avx2>, .widened_bytes = 4 * kLineBytes,
                                       .widen = WidenToFloats, .gemm = ForRows<6, GemmFloats>};
constexpr Kernel kAvx2FixedPair = {.name = "avx2_fixed_pair", .isa = Isa::kAvx2, .product = Product::kFixed16, .panels = 2,
                                   .tile_m = 2, .min_rows = 1, .slice_step = 4, .k_block = 0, .x_bytes = 2,
                                   .row_sums = false, .pack_x = PackXFixed<Avx2, EvenThenOdd>, .widened_bytes = 0,
                                   .widen = nullptr, .gemm = ForRows<2, GemmWidePair>};
constexpr Kernel kAvx2Fixed = {.name = "avx2_fixed", .isa = Isa::kAvx2, .product = Product::kFixed16,
                               .tile_m = 4, .min_rows = 3, .slice_step = 4, .k_block = 0, .x_bytes = 2,
                               .row_sums = false, .pack_x = PackXFixed<Avx2, EvenThenOdd>, .widened_bytes = 0,
                               .widen = nullptr, .gemm = ForRows<4, GemmWide>};
constexpr Kernel kAvx2FixedUnpacked = {.name = "avx2_fixed_unpacked", .isa = Isa::kAvx2, .product = Product::kFixed16,
                                       .tile_m = 6, .min_rows = 48, .slice_step = 4, .k_block = 1024, .x_bytes = 2,
                                       .row_sums = false, .pack_x = PackXFixed<Avx2, EvenThenOdd>,
                                       .widened_bytes = 2 * kLineBytes, .widen = WidenToShorts,
                                       .gemm = ForRows<6, GemmShorts>};
constexpr Stages kAvx2Stages = MakeStages<Avx2>(Isa::kAvx2, kAvx2Lines);

}  // namespace qgmm::cpu
