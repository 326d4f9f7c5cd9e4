// SPDX-License-Identifier: Apache-2.0
// Kernels of Armv8.2's dot products: sdot takes four k of four columns, which is a quarter of a line, as packed, and x
// from a lane. fp32 and the stages are NEON's.
#include "cpu/isa/neon_sums-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

/// The four k in lane kLane of every row's x.
template <int kLane, int kRows>
inline void Step(Sums<kRows>& sums, const int8x16_t (&x)[kRows], const uint8_t* w) {
#pragma GCC unroll 4
  for (int j = 0; j < kQuarters; ++j) {
    const int8x16_t b = LoadBytes(w + 16 * j);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) sums.c[i][j] = vdotq_laneq_s32(sums.c[i][j], b, x[i], kLane);
    LoadsStayHere();
  }
}

/// int8: per 16 k and row one load of x and 16 sdot; 16 loads of weights for all rows.
template <int kRows>
struct GemmInt8 {
  static void Run(const GemmArgs& a) {
    Ahead ahead(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) MultiplySlice(a, slice, ahead);
  }
  static void MultiplySlice(const GemmArgs& a, int slice, Ahead& ahead) {
    Sums<kRows> sums;
    sums.template Start<false>(a, slice);
    const int8_t* x = SliceX(a, slice);
    int lines = (a.k + 3) / 4;
    const uint8_t* w = SliceLines(a, slice, lines);
    int8x16_t v[kRows];
    for (; lines >= 4; lines -= 4, w += 4 * kLineBytes, x += 16) {
      for (int l = 0; l < 4; ++l) ahead.Fetch();
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) v[i] = LoadBytes(x + i * a.x_stride);
      Step<0>(sums, v, w);
      Step<1>(sums, v, w + kLineBytes);
      Step<2>(sums, v, w + 2 * kLineBytes);
      Step<3>(sums, v, w + 3 * kLineBytes);
    }
    for (; lines > 0; --lines, w += kLineBytes, x += 4) {
      ahead.Fetch();
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) v[i] = Broadcast4(x + i * a.x_stride);
      Step<0>(sums, v, w);
    }
    Finish(sums, a, slice);
  }
};

/// int4: nibbles are unpacked in the loop, 8 instructions beside 8 sdot per row and line.
template <int kRows>
struct GemmInt4 {
  static void Run(const GemmArgs& a) {
    Ahead ahead(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) MultiplySlice(a, slice, ahead);
  }
  static void MultiplySlice(const GemmArgs& a, int slice, Ahead& ahead) {
    Sums<kRows> sums;
    sums.template Start<true>(a, slice);
    const int8_t* x = SliceX(a, slice);
    const int lines = (a.k + 7) / 8;
    const uint8_t* w = SliceLines(a, slice, lines);
    for (int l = 0; l < lines; ++l, w += kLineBytes, x += 8) {
      ahead.Fetch();
      int8x16_t v[(kRows + 1) / 2];  // eight k of two rows each: registers are scarce
#pragma GCC unroll 4
      for (int i = 0; i < kRows; i += 2)
        v[i / 2] = vcombine_s8(vld1_s8(x + i * a.x_stride), vld1_s8(x + (i + 1 < kRows ? i + 1 : i) * a.x_stride));
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) {
        const uint8x16_t nibbles = LoadNibbles(w + 16 * j);
        const int8x16_t low = LowNibbles(nibbles), high = HighNibbles(nibbles);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          int32x4_t& c = sums.c[i][j];
          c = i % 2 ? vdotq_laneq_s32(c, low, v[i / 2], 2) : vdotq_laneq_s32(c, low, v[i / 2], 0);
          InRegister(c);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          int32x4_t& c = sums.c[i][j];
          c = i % 2 ? vdotq_laneq_s32(c, high, v[i / 2], 3) : vdotq_laneq_s32(c, high, v[i / 2], 1);
          InRegister(c);
        }
        LoadsStayHere();
      }
    }
    Finish(sums, a, slice);
  }
};

}  // namespace

constexpr Kernel kNeonDotInt8 = {.name = "neondot_int8", .isa = Isa::kNeonDot, .product = Product::kInt8,
                                 .tile_m = 6, .min_rows = 1, .slice_step = 4, .k_block = 1024, .x_bytes = 1,
                                 .row_sums = false, .folds = true, .pack_x = PackXBytes,
                                 .widened_bytes = 0, .widen = nullptr,
                                 .gemm = ForRows<6, GemmInt8>};
constexpr Kernel kNeonDotInt4 = {.name = "neondot_int4", .isa = Isa::kNeonDot, .product = Product::kInt4,
                                 .tile_m = 6, .min_rows = 1, .slice_step = 8, .k_block = 1024, .x_bytes = 1,
                                 .row_sums = true, .folds = true, .pack_x = PackXBytes,
                                 .widened_bytes = 0, .widen = nullptr,
                                 .gemm = ForRows<6, GemmInt4>};

}  // namespace qgmm::cpu
