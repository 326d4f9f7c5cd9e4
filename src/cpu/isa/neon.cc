// SPDX-License-Identifier: Apache-2.0
// The table rows of Armv8.0's NEON, and the stages of all Arm ISAs: the shared ones over Neon's vocabulary.
#include "cpu/isa/neon.h"

#include "cpu/epilogue-inl.h"
#include "cpu/isa/neon_fixed-inl.h"
#include "cpu/isa/neon_gemm-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {

// Tile rows are what 32 registers hold. Nothing was timed on Arm: min_rows of the unpacked row is where instructions
// counted say so (a line costs 48 conversions, in the loop per tile of 6, unpacked once per block).
constexpr Kernel kNeonInt8 = {.name = "neon_int8", .isa = Isa::kNeon, .product = Product::kInt8,
                              .tile_m = 3, .min_rows = 1, .slice_step = 4, .k_block = 1024, .x_bytes = 1,
                              .row_sums = false, .folds = true, .pack_x = PackXBytes,
                              .widened_bytes = 0, .widen = nullptr,
                              .gemm = ForRows<3, GemmInt8>};
constexpr Kernel kNeonInt4 = {.name = "neon_int4", .isa = Isa::kNeon, .product = Product::kInt4,
                              .tile_m = 4, .min_rows = 1, .slice_step = 8, .k_block = 1024, .x_bytes = 1,
                              .row_sums = true, .folds = true, .pack_x = PackXBytes,
                              .widened_bytes = 0, .widen = nullptr,
                              .gemm = ForRows<4, GemmInt4>};
constexpr Kernel kNeonFloat = {.name = "neon_float", .isa = Isa::kNeon, .product = Product::kFloat,
                               .tile_m = 6, .min_rows = 1, .slice_step = 4, .k_block = 1024, .x_bytes = 4,
                               .row_sums = false, .pack_x = PackXFloats<Neon>, .widened_bytes = 0, .widen = nullptr,
                               .gemm = ForRows<6, GemmFloat>};
constexpr Kernel kNeonFloatUnpacked = {.name = "neon_float_unpacked", .isa = Isa::kNeon, .product = Product::kFloat,
                                       .tile_m = 6, .min_rows = 24, .slice_step = 4, .k_block = 256, .x_bytes = 4,
                                       .row_sums = false, .pack_x = PackXFloats<Neon>, .widened_bytes = 4 * kLineBytes,
                                       .widen = WidenToFloats, .gemm = ForRows<6, GemmFloats>};
constexpr Kernel kNeonFixed = {.name = "neon_fixed", .isa = Isa::kNeon, .product = Product::kFixed16,
                               .tile_m = 5, .min_rows = 1, .slice_step = 4, .k_block = 1024, .x_bytes = 2,
                               .row_sums = false, .pack_x = PackXFixed<Neon, FixedInOrder>, .widened_bytes = 0,
                               .widen = nullptr, .gemm = ForRows<5, GemmFixed>};
constexpr Stages kNeonStages = MakeStages<Neon>(Isa::kNeon);

}  // namespace qgmm::cpu
