// SPDX-License-Identifier: Apache-2.0
// The vocabulary of Armv8's NEON: four lanes.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "numeric.h"
#include "qgmm/types.h"

namespace qgmm::cpu {
namespace {

struct Neon {
  static constexpr int kLanes = 4;
  using F = float32x4_t;
  using I = int32x4_t;
  using M = uint32x4_t;

  static F Load(const float* p) { return vld1q_f32(p); }
  static void Store(float* p, F v) { vst1q_f32(p, v); }
  static I LoadInt(const int32_t* p) { return vld1q_s32(p); }
  static void StoreInt(int32_t* p, I v) { vst1q_s32(p, v); }
  static F LoadHalf(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static F LoadBFloat16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
  static I LoadHalves(const uint16_t* p) { return vreinterpretq_s32_u16(vld1q_u16(p)); }
  static F Set(float v) { return vdupq_n_f32(v); }
  static I SetInt(int32_t v) { return vdupq_n_s32(v); }
  static F Add(F a, F b) { return vaddq_f32(a, b); }
  static F Sub(F a, F b) { return vsubq_f32(a, b); }
  static F Mul(F a, F b) { return vmulq_f32(a, b); }
  static F Div(F a, F b) { return vdivq_f32(a, b); }
  static F Fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F NegativeFma(F a, F b, F c) { return vfmsq_f32(c, a, b); }  // c - a * b
  static F Rint(F v) { return vrndnq_f32(v); }
  static I AddInt(I a, I b) { return vaddq_s32(a, b); }
  static I SubInt(I a, I b) { return vsubq_s32(a, b); }
  static I AndInt(I a, I b) { return vandq_s32(a, b); }
  static I MaxInt(I a, I b) { return vmaxq_s32(a, b); }
  static I MaxHalves(I a, I b) {
    return vreinterpretq_s32_s16(vmaxq_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)));
  }
  template <int kBits> static I ShiftLeft(I v) { return vshlq_n_s32(v, kBits); }
  template <int kBits> static I ShiftRight(I v) { return vshrq_n_s32(v, kBits); }
  static I Bits(F v) { return vreinterpretq_s32_f32(v); }
  static F FromBits(I v) { return vreinterpretq_f32_s32(v); }
  static F ToFloat(I v) { return vcvtq_f32_s32(v); }
  static I Truncate(F v) { return vcvtq_s32_f32(v); }
  /// Not fmin and fmax, which order -0 and +0: v > limit ? limit : v, and v < limit ? limit : v; a NaN passes.
  static F Min(F v, F limit) { return vbslq_f32(vcgtq_f32(v, limit), limit, v); }
  static F Max(F v, F limit) { return vbslq_f32(vcltq_f32(v, limit), limit, v); }
  static M IsNan(F v) { return vmvnq_u32(vceqq_f32(v, v)); }
  static M IsNegative(F v) { return vcltzq_f32(v); }
  static F Select(M mask, F yes, F no) { return vbslq_f32(mask, yes, no); }
  static int32_t MaxLane(I v) { return vmaxvq_s32(v); }

  /// 16 fp32 narrowed to float32, float16 or bfloat16 at element `at`; NaN already canonical.
  static bool StoreNarrow16(void* y, DType dtype, int64_t at, const F (&z)[4]) {
    for (int j = 0; j < 16; j += kLanes) {
      const F v = z[j / kLanes];
      if (dtype == DType::kFloat32) {
        Store(static_cast<float*>(y) + at + j, v);
      } else {
        vst1_u16(static_cast<uint16_t*>(y) + at + j,
                 dtype == DType::kFloat16 ? vreinterpret_u16_f16(vcvt_f16_f32(v)) : ToBFloat16(v));
      }
    }
    return true;
  }
  static uint16x4_t ToBFloat16(F v) {  // bits + 0x7FFF + (the bit that stays last): round to nearest even
    const uint32x4_t bits = vreinterpretq_u32_f32(v), last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vshrn_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), last), 16);
  }
  /// Sixteen quotients within int32, rounded to nearest even, clamped to +-max, as bytes.
  static void StoreCodes(uint8_t* q, const F (&v)[4], int max) {
    const int16x8_t high = vdupq_n_s16(static_cast<int16_t>(max)), low = vdupq_n_s16(static_cast<int16_t>(-max));
    for (int j = 0; j < 4; j += 2) {
      const int16x8_t words = vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(v[j])), vqmovn_s32(vcvtnq_s32_f32(v[j + 1])));
      const int8x8_t bytes = vmovn_s16(vminq_s16(vmaxq_s16(words, low), high));
      vst1_u8(q + 4 * j, vreinterpret_u8_s8(bytes));
    }
  }
  static bool Widen(const void* x, DType dtype, int64_t count, float* out) {
    if (dtype == DType::kFloat32) {
      __builtin_memcpy(out, x, static_cast<size_t>(count) * sizeof(float));
      return true;
    }
    const auto* in = static_cast<const uint16_t*>(x);
    int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes) {
      Store(out + j, dtype == DType::kFloat16 ? LoadHalf(in + j) : LoadBFloat16(in + j));
    }
    for (; j < count; ++j) out[j] = qgmm::Load(x, dtype, j);
    return true;
  }
};

}  // namespace
}  // namespace qgmm::cpu
