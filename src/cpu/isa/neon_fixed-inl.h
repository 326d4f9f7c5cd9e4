// SPDX-License-Identifier: Apache-2.0
// kFixed16 on NEON: int16 X from lanes, smlal on a line's bytes widened to int16.
#pragma once

#include "cpu/isa/neon_sums-inl.h"

namespace qgmm::cpu {
namespace {

/// X in the order of k; `count` is a multiple of 64.
struct FixedInOrder {
  static void Store(const float* v, int count, float inverse, int16_t* out) {
    for (int k = 0; k < count; k += 8) {
      const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(v + k), inverse));  // to nearest even
      const int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(v + k + 4), inverse));
      vst1q_s16(out + k, vcombine_s16(vmovn_s32(low), vmovn_s32(high)));
    }
  }
};

/// Per line one ld4, which leaves a k of all 16 columns in each of four registers, 8 sshll, and 16 smlal per row.
template <int kRows>
struct GemmFixed {
  static void Run(const GemmArgs& a) {
    Sums<kRows> sums;
    sums.template Start<false>(a, 0);
    const int16_t* x = static_cast<const int16_t*>(a.x);
    const uint8_t* w = a.w[0];
    Ahead ahead(a);
    for (int k = 0; k < a.k; k += 4, w += kLineBytes, x += 4) {
      ahead.Fetch();
      int16x4_t v[kRows];
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) v[i] = vld1_s16(x + i * a.x_stride);
      const int8x16x4_t line = vld4q_s8(reinterpret_cast<const int8_t*>(w));
      Step<0>(sums, v, line.val[0]);
      Step<1>(sums, v, line.val[1]);
      Step<2>(sums, v, line.val[2]);
      Step<3>(sums, v, line.val[3]);
    }
    Finish(sums, a, 0);
  }
  /// The k in lane kLane of every row's x.
  template <int kLane>
  QGMM_IN_REGISTERS static void Step(Sums<kRows>& sums, const int16x4_t (&x)[kRows], int8x16_t weights) {
    const int16x8_t low = vmovl_s8(vget_low_s8(weights));
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      sums.c[i][0] = vmlal_lane_s16(sums.c[i][0], vget_low_s16(low), x[i], kLane);
      sums.c[i][1] = vmlal_high_lane_s16(sums.c[i][1], low, x[i], kLane);
      InRegister(sums.c[i][0]);
      InRegister(sums.c[i][1]);
    }
    const int16x8_t high = vmovl_high_s8(weights);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      sums.c[i][2] = vmlal_lane_s16(sums.c[i][2], vget_low_s16(high), x[i], kLane);
      sums.c[i][3] = vmlal_high_lane_s16(sums.c[i][3], high, x[i], kLane);
      InRegister(sums.c[i][2]);
      InRegister(sums.c[i][3]);
    }
  }
};

}  // namespace
}  // namespace qgmm::cpu
