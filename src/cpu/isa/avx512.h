// SPDX-License-Identifier: Apache-2.0
// The vocabulary of AVX-512 (F, BW): sixteen lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/isa/avx2.h"
#include "qgmm/types.h"

namespace qgmm::cpu {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  using F = __m512;
  using I = __m512i;
  using M = __mmask16;

  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static I LoadInt(const int32_t* p) { return _mm512_loadu_si512(p); }
  static void StoreInt(int32_t* p, I v) { _mm512_storeu_si512(p, v); }
  static F LoadHalf(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F LoadBFloat16(const uint16_t* p) {
    return FromBits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  static I LoadHalves(const uint16_t* p) { return _mm512_loadu_si512(p); }
  static F Set(float v) { return _mm512_set1_ps(v); }
  static I SetInt(int32_t v) { return _mm512_set1_epi32(v); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F NegativeFma(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a * b
  static F Rint(F v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static I AddInt(I a, I b) { return _mm512_add_epi32(a, b); }
  static I SubInt(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I AndInt(I a, I b) { return _mm512_and_si512(a, b); }
  static I MaxInt(I a, I b) { return _mm512_max_epi32(a, b); }
  static I MaxHalves(I a, I b) { return _mm512_max_epi16(a, b); }
  template <int kBits> static I ShiftLeft(I v) { return _mm512_slli_epi32(v, kBits); }
  template <int kBits> static I ShiftRight(I v) { return _mm512_srai_epi32(v, kBits); }
  static I Bits(F v) { return _mm512_castps_si512(v); }
  static F FromBits(I v) { return _mm512_castsi512_ps(v); }
  static F ToFloat(I v) { return _mm512_cvtepi32_ps(v); }
  static I Truncate(F v) { return _mm512_cvttps_epi32(v); }
  /// As AVX2's: of two operands the second is the answer when either is NaN.
  static F Min(F v, F limit) { return _mm512_min_ps(limit, v); }
  static F Max(F v, F limit) { return _mm512_max_ps(limit, v); }
  static M IsNan(F v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q); }
  static M IsNegative(F v) { return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_LT_OQ); }
  static F Select(M mask, F yes, F no) { return _mm512_mask_blend_ps(mask, no, yes); }
  static int32_t MaxLane(I v) {
    return Avx2::MaxLane(_mm256_max_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1)));
  }
  /// p * 2^n, n whole: the bits of the two factors of Exp for all 2^32 inputs.
  static F Scale(F p, F n) { return _mm512_scalef_ps(p, n); }

  /// 16 fp32 narrowed to float32, float16 or bfloat16 at element `at`; NaN already canonical.
  static bool StoreNarrow16(void* y, DType dtype, int64_t at, const F (&z)[1]) {
    const F v = z[0];
    if (dtype == DType::kFloat32) {
      Store(static_cast<float*>(y) + at, v);
      return true;
    }
    auto* out = reinterpret_cast<__m256i*>(static_cast<uint16_t*>(y) + at);
    _mm256_storeu_si256(out, dtype == DType::kFloat16 ? _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT) : ToBFloat16(v));
    return true;
  }
  static __m256i ToBFloat16(F v) {  // bits + 0x7FFF + (the bit that stays last): round to nearest even
    const I bits = Bits(v), last = AndInt(_mm512_srli_epi32(bits, 16), SetInt(1));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(AddInt(AddInt(bits, SetInt(0x7FFF)), last), 16));
  }
  /// Sixteen quotients within int32, rounded to nearest even, clamped to +-max, as bytes.
  static void StoreCodes(uint8_t* q, const F (&v)[1], int max) {
    const I codes = _mm512_min_epi32(_mm512_max_epi32(_mm512_cvtps_epi32(v[0]), SetInt(-max)), SetInt(max));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(codes));
  }
  static bool Widen(const void* x, DType dtype, int64_t count, float* out) { return Avx2::Widen(x, dtype, count, out); }
};

}  // namespace
}  // namespace qgmm::cpu
