// SPDX-License-Identifier: Apache-2.0
// Tile loops of Armv8.0, which has no dot products. Exact for every input: sums of int8 products leave int16 at once
// (128 * 128 * 2 does not fit), those of nibbles after 16.
#pragma once

#include "cpu/isa/neon_sums-inl.h"

namespace qgmm::cpu {
namespace {

/// int8. Per line and row 8 smull and 8 sadalp for 64 multiply-adds; two sums per column, added at the end.
template <int kRows>
struct GemmInt8 {
  static void Run(const GemmArgs& a) {
    Ahead ahead(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) MultiplySlice(a, slice, ahead);
  }
  static void MultiplySlice(const GemmArgs& a, int slice, Ahead& ahead) {
    int32x4_t pairs[kRows][kQuarters][2];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) pairs[i][j][0] = pairs[i][j][1] = vdupq_n_s32(0);
    }
    const int8_t* x = SliceX(a, slice);
    const int lines = (a.k + 3) / 4;
    const uint8_t* w = SliceLines(a, slice, lines);
    for (int l = 0; l < lines; ++l, w += kLineBytes, x += 4) {
      ahead.Fetch();
      int8x16_t four[kRows];
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) four[i] = Broadcast4(x + i * a.x_stride);
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) {
        const int8x16_t b = LoadBytes(w + 16 * j);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) {
          pairs[i][j][0] = vpadalq_s16(pairs[i][j][0], vmull_s8(vget_low_s8(b), vget_low_s8(four[i])));
          pairs[i][j][1] = vpadalq_s16(pairs[i][j][1], vmull_high_s8(b, four[i]));
          InRegister(pairs[i][j][0]);
          InRegister(pairs[i][j][1]);
        }
        LoadsStayHere();
      }
    }
    Sums<kRows> sums;
    sums.template Start<false>(a, slice);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) {
        sums.c[i][j] = vaddq_s32(sums.c[i][j], vpaddq_s32(pairs[i][j][0], pairs[i][j][1]));
      }
    }
    Finish(sums, a, slice);
  }
};

/// One register's four columns over `lines` lines of nibbles, in int16: 2 * 8 products of at most 15 * 128 are 30720.
template <int kRows>
struct NibbleSums {
  static constexpr int kMostLines = 8;
  int16x8_t low[kRows], high[kRows];

  NibbleSums(const GemmArgs& a, const int8_t* x, const uint8_t* w, int lines) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) low[i] = high[i] = vdupq_n_s16(0);
    for (int l = 0; l < lines; ++l, w += kLineBytes, x += 8) {
      const uint8x16_t v = LoadNibbles(w);
      Step(a, x, LowNibbles(v));
      Step(a, x + 4, HighNibbles(v));
    }
  }
  QGMM_IN_REGISTERS void Step(const GemmArgs& a, const int8_t* x, int8x16_t b) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const int8x16_t four = Broadcast4(x + i * a.x_stride);
      low[i] = vmlal_s8(low[i], vget_low_s8(b), vget_low_s8(four));
      high[i] = vmlal_high_s8(high[i], b, four);
    }
  }
  int32x4_t Columns(int i) const { return vpaddq_s32(vpaddlq_s16(low[i]), vpaddlq_s16(high[i])); }
};

/// int4: smlal into int16, 64 k of four columns at a time.
template <int kRows>
struct GemmInt4 {
  static void Run(const GemmArgs& a) {
    Ahead ahead(a);
    for (int slice = 0; slice < SliceCount(a); ++slice) MultiplySlice(a, slice, ahead);
  }
  static void MultiplySlice(const GemmArgs& a, int slice, Ahead& ahead) {
    constexpr int kMost = NibbleSums<kRows>::kMostLines;
    Sums<kRows> sums;
    sums.template Start<true>(a, slice);
    const int8_t* x = SliceX(a, slice);
    int left = (a.k + 7) / 8;
    const uint8_t* w = SliceLines(a, slice, left);
    for (; left > 0; left -= kMost, w += kMost * kLineBytes, x += kMost * 8) {
      const int lines = left < kMost ? left : kMost;
      for (int l = 0; l < lines; ++l) ahead.Fetch();
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) {
        const NibbleSums<kRows> part(a, x, w + 16 * j, lines);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) sums.c[i][j] = vaddq_s32(sums.c[i][j], part.Columns(i));
      }
    }
    Finish(sums, a, slice);
  }
};

/// Strict fp32: k ascending in one lane, so every ISA gives the same bits.
template <int kRows>
struct FloatSums {
  float32x4_t c[kRows][kQuarters];

  QGMM_IN_REGISTERS void Start(const GemmArgs& a) {
    const float* acc = static_cast<const float*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) c[i][j] = a.add ? vld1q_f32(acc + i * kPairColumns + 4 * j) : vdupq_n_f32(0);
    }
  }
  /// One k of every row and of 16 columns.
  QGMM_IN_REGISTERS void Step(const GemmArgs& a, const float* x, const float32x4_t (&b)[kQuarters]) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const float32x4_t v = vld1q_dup_f32(x + i * a.x_stride);
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) {
        c[i][j] = vfmaq_f32(c[i][j], v, b[j]);
        InRegister(c[i][j]);
      }
    }
    LoadsStayHere();
  }
  QGMM_IN_REGISTERS void Finish(const GemmArgs& a) const {
    float* acc = static_cast<float*>(a.acc);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < kQuarters; ++j) vst1q_f32(acc + i * kPairColumns + 4 * j, c[i][j]);
    }
  }
};

/// Byte kByte of every column's four, as fp32.
template <int kByte>
inline float32x4_t ByteAsFloat(const uint8_t* quarter) {
  int32x4_t v = vreinterpretq_s32_s8(LoadBytes(quarter));
  if constexpr (kByte < 3) v = vshlq_n_s32(v, 24 - 8 * kByte);
  return vcvtq_f32_s32(vshrq_n_s32(v, 24));
}

template <int kRows>
struct GemmFloat {
  template <int kByte>
  QGMM_IN_REGISTERS static void Step(FloatSums<kRows>& s, const GemmArgs& a, const float* x, const uint8_t* w) {
    const float32x4_t b[kQuarters] = {ByteAsFloat<kByte>(w), ByteAsFloat<kByte>(w + 16), ByteAsFloat<kByte>(w + 32),
                                      ByteAsFloat<kByte>(w + 48)};
    s.Step(a, x + kByte, b);
  }
  static void Run(const GemmArgs& a) {
    FloatSums<kRows> s;
    s.Start(a);
    const float* x = static_cast<const float*>(a.x);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    for (int k = 0; k < a.k; k += 4, w += kLineBytes, x += 4) {
      ahead.Fetch();
      Step<0>(s, a, x, w);
      Step<1>(s, a, x, w);
      Step<2>(s, a, x, w);
      Step<3>(s, a, x, w);
    }
    s.Finish(a);
  }
};

/// A line as four rows of 16 fp32, k ascending.
void WidenToFloats(const uint8_t* lines, int line_count, uint8_t* out) {
  float* f = reinterpret_cast<float*>(out);
  for (int l = 0; l < line_count; ++l, lines += kLineBytes, f += kLineBytes) {
    FetchToWiden(lines);
#pragma GCC unroll 4
    for (int j = 0; j < kQuarters; ++j) {
      vst1q_f32(f + 4 * j, ByteAsFloat<0>(lines + 16 * j));
      vst1q_f32(f + 16 + 4 * j, ByteAsFloat<1>(lines + 16 * j));
      vst1q_f32(f + 32 + 4 * j, ByteAsFloat<2>(lines + 16 * j));
      vst1q_f32(f + 48 + 4 * j, ByteAsFloat<3>(lines + 16 * j));
    }
  }
}

template <int kRows>
struct GemmFloats {
  static void Run(const GemmArgs& a) {
    FloatSums<kRows> s;
    s.Start(a);
    const float* x = static_cast<const float*>(a.x);
    const float* w = reinterpret_cast<const float*>(a.w[0]);
    Ahead ahead(a);
    const int steps = (a.k + 3) / 4 * 4;
    for (int k = 0; k < steps; ++k, w += kPanelColumns, ++x) {
      if (k % 4 == 0) ahead.Fetch();
      const float32x4_t b[kQuarters] = {vld1q_f32(w), vld1q_f32(w + 4), vld1q_f32(w + 8), vld1q_f32(w + 12)};
      s.Step(a, x, b);
    }
    s.Finish(a);
  }
};

}  // namespace
}  // namespace qgmm::cpu
