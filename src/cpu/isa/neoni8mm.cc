// SPDX-License-Identifier: Apache-2.0
// Kernels of Armv8.6's int8 matrix products: smmla multiplies eight k of two rows by eight k of two columns. Two lines
// are zipped into that form (int4: the two halves of one), in the loop or once per block. fp32 and stages are NEON's.
#include "cpu/isa/neon_sums-inl.h"
#include "cpu/isa/tables.h"
#include "cpu/pack_x-inl.h"

namespace qgmm::cpu {
namespace {

constexpr int kEights = 8;  // registers of two columns with eight k each
constexpr int kZippedBytes = 2 * kLineBytes;

inline int32x4_t LowHalves(int32x4_t a, int32x4_t b) { return vcombine_s32(vget_low_s32(a), vget_low_s32(b)); }
inline int32x4_t HighHalves(int32x4_t a, int32x4_t b) { return vcombine_s32(vget_high_s32(a), vget_high_s32(b)); }

/// Columns 4j .. 4j + 3 of k 0..3 and of k 4..7 as columns with eight k: the first two, the other two.
struct Zipped {
  int8x16_t first, second;
  Zipped(int8x16_t low_k, int8x16_t high_k)
      : first(vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(low_k), vreinterpretq_s32_s8(high_k)))),
        second(vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(low_k), vreinterpretq_s32_s8(high_k)))) {}
};

/// The accumulators of kRows rows, in pairs: register e holds columns 2e and 2e + 1 of the one row, then of the other.
/// An odd last row is multiplied twice.
template <int kRows>
struct BlockSums {
  static constexpr int kRowPairs = (kRows + 1) / 2;
  int32x4_t c[kRowPairs][kEights];

  static constexpr int Second(int p) { return 2 * p + 1 < kRows ? 2 * p + 1 : 2 * p; }

  template <bool kNibbles>
  QGMM_IN_REGISTERS void Start(const GemmArgs& a, int slice) {
    const int32_t* acc = static_cast<const int32_t*>(a.acc);
#pragma GCC unroll 4
    for (int p = 0; p < kRowPairs; ++p) {
      const int32x4_t first = vcombine_s32(vdup_n_s32(FirstSum<kNibbles>(a, 2 * p, slice)),
                                           vdup_n_s32(FirstSum<kNibbles>(a, Second(p), slice)));
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) {
        c[p][2 * j] = c[p][2 * j + 1] = first;
        if (!Continues(a)) continue;
        const int32x4_t one = vld1q_s32(acc + 2 * p * kPairColumns + 4 * j);
        const int32x4_t other = vld1q_s32(acc + Second(p) * kPairColumns + 4 * j);
        c[p][2 * j] = LowHalves(one, other);
        c[p][2 * j + 1] = HighHalves(one, other);
      }
    }
  }
  /// Eight k of all rows' x.
  struct X {
    int8x16_t v[kRowPairs];
    X(const GemmArgs& a, const int8_t* x) {
#pragma GCC unroll 4
      for (int p = 0; p < kRowPairs; ++p) {
        v[p] = vcombine_s8(vld1_s8(x + 2 * p * a.x_stride), vld1_s8(x + Second(p) * a.x_stride));
        asm("" : "+w"(v[p]));  // GCC 12 would keep it twice
      }
    }
  };
  /// Columns 2e and 2e + 1.
  QGMM_IN_REGISTERS void Multiply(int e, const X& x, int8x16_t b) {
#pragma GCC unroll 4
    for (int p = 0; p < kRowPairs; ++p) c[p][e] = vmmlaq_s32(c[p][e], x.v[p], b);
    LoadsStayHere();
  }
  QGMM_IN_REGISTERS void Multiply(int j, const X& x, const Zipped& b) {
    Multiply(2 * j, x, b.first);
    Multiply(2 * j + 1, x, b.second);
  }
  template <class Where>
  QGMM_IN_REGISTERS void Leave(const Where& where) const {
#pragma GCC unroll 4
    for (int p = 0; p < kRowPairs; ++p) {
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) {
        where.Four(2 * p, j, LowHalves(c[p][2 * j], c[p][2 * j + 1]));
        if (2 * p + 1 < kRows) where.Four(2 * p + 1, j, HighHalves(c[p][2 * j], c[p][2 * j + 1]));
      }
    }
  }
};

/// An odd last line: the k behind it are those of zero weights, whatever x holds there.
template <int kRows>
QGMM_IN_REGISTERS inline void LastLine(BlockSums<kRows>& sums, const GemmArgs& a, const int8_t* x, const uint8_t* w) {
  const typename BlockSums<kRows>::X eight(a, x);
#pragma GCC unroll 4
  for (int j = 0; j < kQuarters; ++j) sums.Multiply(j, eight, Zipped(LoadBytes(w + 16 * j), vdupq_n_s8(0)));
}

/// int8 from packed lines. Per 8 k 8 zips and, for 6 rows, 24 smmla of 32 multiply-adds.
template <int kRows>
struct GemmInt8 {
  static void Run(const GemmArgs& a) {
    Ahead ahead(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) MultiplySlice(a, slice, ahead);
  }
  static void MultiplySlice(const GemmArgs& a, int slice, Ahead& ahead) {
    BlockSums<kRows> sums;
    sums.template Start<false>(a, slice);
    const int8_t* x = SliceX(a, slice);
    int lines = (a.k + 3) / 4;
    const uint8_t* w = SliceLines(a, slice, lines);
    for (; lines >= 2; lines -= 2, w += 2 * kLineBytes, x += 8) {
      ahead.Fetch();
      ahead.Fetch();
      const typename BlockSums<kRows>::X eight(a, x);
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j)
        sums.Multiply(j, eight, Zipped(LoadBytes(w + 16 * j), LoadBytes(w + kLineBytes + 16 * j)));
    }
    if (lines > 0) LastLine(sums, a, x, w);
    Finish(sums, a, slice);
  }
};

/// int4 from packed lines: a line is eight k, its low nibbles four, its high ones four.
template <int kRows>
struct GemmInt4 {
  static void Run(const GemmArgs& a) {
    Ahead ahead(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) MultiplySlice(a, slice, ahead);
  }
  static void MultiplySlice(const GemmArgs& a, int slice, Ahead& ahead) {
    BlockSums<kRows> sums;
    sums.template Start<true>(a, slice);
    const int8_t* x = SliceX(a, slice);
    const int lines = (a.k + 7) / 8;
    const uint8_t* w = SliceLines(a, slice, lines);
    for (int l = 0; l < lines; ++l, w += kLineBytes, x += 8) {
      ahead.Fetch();
      const typename BlockSums<kRows>::X eight(a, x);
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) {
        const uint8x16_t v = LoadNibbles(w + 16 * j);
        sums.Multiply(j, eight, Zipped(LowNibbles(v), HighNibbles(v)));
        LoadsStayHere();  // found by trial: clang 14 80 -> 69 instructions for 6 rows, no sum on the stack; GCC 12 69
      }
    }
    Finish(sums, a, slice);
  }
};

inline void StoreZipped(uint8_t* out, int j, const Zipped& b) {
  vst1q_s8(reinterpret_cast<int8_t*>(out) + 32 * j, b.first);
  vst1q_s8(reinterpret_cast<int8_t*>(out) + 32 * j + 16, b.second);
}

/// Pairs of lines; an odd last one stays as it is.
void ZipLines(const uint8_t* lines, int line_count, uint8_t* out) {
  for (; line_count >= 2; line_count -= 2, lines += kZippedBytes, out += kZippedBytes) {
    FetchToWiden(lines);
    FetchToWiden(lines + kLineBytes);
#pragma GCC unroll 4
    for (int j = 0; j < kQuarters; ++j)
      StoreZipped(out, j, Zipped(LoadBytes(lines + 16 * j), LoadBytes(lines + kLineBytes + 16 * j)));
  }
  if (line_count > 0) __builtin_memcpy(out, lines, kLineBytes);
}

/// A line of nibbles as two of bytes.
void ZipNibbles(const uint8_t* lines, int line_count, uint8_t* out) {
  for (int l = 0; l < line_count; ++l, lines += kLineBytes, out += kZippedBytes) {
    FetchToWiden(lines);
#pragma GCC unroll 4
    for (int j = 0; j < kQuarters; ++j) {
      const uint8x16_t v = LoadNibbles(lines + 16 * j);
      StoreZipped(out, j, Zipped(LowNibbles(v), HighNibbles(v)));
    }
  }
}

/// From zipped lines. Per 8 k 8 loads, 3 pairs of x put together, 24 smmla for 6 rows.
template <int kRows, bool kNibbles>
struct GemmZipped {
  static void Run(const GemmArgs& a) {
    Ahead ahead(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) MultiplySlice(a, slice, ahead);
  }
  static void MultiplySlice(const GemmArgs& a, int slice, Ahead& ahead) {
    BlockSums<kRows> sums;
    sums.template Start<kNibbles>(a, slice);
    const int8_t* x = SliceX(a, slice);
    const uint8_t* w = SliceLines(a, slice, a.k / 8, kZippedBytes);
    int left = a.k;
    for (; left > (kNibbles ? 0 : 4); left -= 8, w += kZippedBytes, x += 8) {
      ahead.Fetch();
      if (!kNibbles) ahead.Fetch();
      const typename BlockSums<kRows>::X eight(a, x);
#pragma GCC unroll 8
      for (int e = 0; e < kEights; ++e) sums.Multiply(e, eight, LoadBytes(w + 16 * e));
    }
    if (!kNibbles && left > 0) LastLine(sums, a, x, w);
    Finish(sums, a, slice);
  }
};
template <int kRows>
using GemmInt8Zipped = GemmZipped<kRows, false>;
template <int kRows>
using GemmInt4Zipped = GemmZipped<kRows, true>;

}  // namespace

// Nothing was timed on Arm. 6 rows x 16 columns, not 8 x 8: as many vector instructions beside smmla with zips in the
// loop (11 of 35, 8 of 24), fewer without (3 of 27, 4 of 20), and a panel is read once. Up to 3 rows sdot needs no more
// instructions than zips and smmla; from 24 rows on zipping once has paid for its stores.
constexpr Kernel kNeonI8mmInt8 = {.name = "neoni8mm_int8", .isa = Isa::kNeonI8mm,
                                  .product = Product::kInt8, .tile_m = 6, .min_rows = 4,
                                  .slice_step = 4, .k_block = 1024, .x_bytes = 1, .row_sums = false, .folds = true,
                                  .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                  .gemm = ForRows<6, GemmInt8>};
constexpr Kernel kNeonI8mmInt8Zipped = {.name = "neoni8mm_int8_zipped", .isa = Isa::kNeonI8mm,
                                        .product = Product::kInt8, .tile_m = 6, .min_rows = 24,
                                        .slice_step = 8, .k_block = 1024, .x_bytes = 1, .row_sums = false, .folds = true,
                                        .pack_x = PackXBytes, .widened_bytes = kLineBytes, .widen = ZipLines,
                                        .gemm = ForRows<6, GemmInt8Zipped>};
constexpr Kernel kNeonI8mmInt4 = {.name = "neoni8mm_int4", .isa = Isa::kNeonI8mm,
                                  .product = Product::kInt4, .tile_m = 6, .min_rows = 4,
                                  .slice_step = 8, .k_block = 1024, .x_bytes = 1, .row_sums = true, .folds = true,
                                  .pack_x = PackXBytes, .widened_bytes = 0, .widen = nullptr,
                                  .gemm = ForRows<6, GemmInt4>};
constexpr Kernel kNeonI8mmInt4Zipped = {.name = "neoni8mm_int4_zipped", .isa = Isa::kNeonI8mm,
                                        .product = Product::kInt4, .tile_m = 6, .min_rows = 24,
                                        .slice_step = 8, .k_block = 1024, .x_bytes = 1, .row_sums = true, .folds = true,
                                        .pack_x = PackXBytes, .widened_bytes = kZippedBytes, .widen = ZipNibbles,
                                        .gemm = ForRows<6, GemmInt4Zipped>};

}  // namespace qgmm::cpu
