// SPDX-License-Identifier: Apache-2.0
// The vocabulary of AVX2 with FMA and F16C: eight lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "numeric.h"
#include "qgmm/types.h"

namespace qgmm::cpu {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  using F = __m256;
  using I = __m256i;
  using M = __m256;

  static F Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static I LoadInt(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static void StoreInt(int32_t* p, I v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static F LoadHalf(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F LoadBFloat16(const uint16_t* p) {
    return FromBits(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
  }
  static I LoadHalves(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static F Set(float v) { return _mm256_set1_ps(v); }
  static I SetInt(int32_t v) { return _mm256_set1_epi32(v); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F NegativeFma(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a * b
  static F Rint(F v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static I AddInt(I a, I b) { return _mm256_add_epi32(a, b); }
  static I SubInt(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I AndInt(I a, I b) { return _mm256_and_si256(a, b); }
  static I MaxInt(I a, I b) { return _mm256_max_epi32(a, b); }
  static I MaxHalves(I a, I b) { return _mm256_max_epi16(a, b); }
  template <int kBits> static I ShiftLeft(I v) { return _mm256_slli_epi32(v, kBits); }
  template <int kBits> static I ShiftRight(I v) { return _mm256_srai_epi32(v, kBits); }
  static I Bits(F v) { return _mm256_castps_si256(v); }
  static F FromBits(I v) { return _mm256_castsi256_ps(v); }
  static F ToFloat(I v) { return _mm256_cvtepi32_ps(v); }
  static I Truncate(F v) { return _mm256_cvttps_epi32(v); }
  /// vminps returns its second operand when either is NaN, so the limit stands first: a NaN passes.
  static F Min(F v, F limit) { return _mm256_min_ps(limit, v); }
  static F Max(F v, F limit) { return _mm256_max_ps(limit, v); }
  static M IsNan(F v) { return _mm256_cmp_ps(v, v, _CMP_UNORD_Q); }
  static M IsNegative(F v) { return _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_LT_OQ); }
  static F Select(M mask, F yes, F no) { return _mm256_blendv_ps(no, yes, mask); }
  static int32_t MaxLane(I v) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xB1));
    return _mm_cvtsi128_si32(m);
  }

  /// 16 fp32 narrowed to float32, float16 or bfloat16 at element `at`; NaN already canonical.
  static bool StoreNarrow16(void* y, DType dtype, int64_t at, const F (&z)[2]) {
    const F low = z[0], high = z[1];
    if (dtype == DType::kFloat32) {
      Store(static_cast<float*>(y) + at, low);
      Store(static_cast<float*>(y) + at + 8, high);
      return true;
    }
    auto* out = reinterpret_cast<__m128i*>(static_cast<uint16_t*>(y) + at);
    if (dtype == DType::kFloat16) {
      _mm_storeu_si128(out, _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
      _mm_storeu_si128(out + 1, _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT));
      return true;
    }
    _mm_storeu_si128(out, ToBFloat16(low));
    _mm_storeu_si128(out + 1, ToBFloat16(high));
    return true;
  }
  static __m128i ToBFloat16(F v) {  // bits + 0x7FFF + (the bit that stays last): round to nearest even
    const I bits = Bits(v);
    const I last = _mm256_and_si256(_mm256_srli_epi32(bits, 16), SetInt(1));
    const I rounded = _mm256_srli_epi32(AddInt(AddInt(bits, SetInt(0x7FFF)), last), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
  }
  /// Sixteen quotients within int32, rounded to nearest even, clamped to +-max, as bytes.
  static void StoreCodes(uint8_t* q, const F (&v)[2], int max) {
    const I words = _mm256_packs_epi32(_mm256_cvtps_epi32(v[0]), _mm256_cvtps_epi32(v[1]));
    const I limit = _mm256_set1_epi16(static_cast<int16_t>(max)), low = _mm256_set1_epi16(static_cast<int16_t>(-max));
    const I codes = _mm256_min_epi16(_mm256_max_epi16(words, low), limit);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm_shuffle_epi32(bytes, 0xD8));  // fours 0 2 1 3 before
  }
  static bool Widen(const void* x, DType dtype, int64_t count, float* out) {
    if (dtype == DType::kFloat32) {
      __builtin_memcpy(out, x, static_cast<size_t>(count) * sizeof(float));
      return true;
    }
    const auto* in = static_cast<const uint16_t*>(x);
    int64_t j = 0;
    for (; j + 8 <= count; j += 8) {
      Store(out + j, dtype == DType::kFloat16 ? LoadHalf(in + j) : LoadBFloat16(in + j));
    }
    for (; j < count; ++j) out[j] = qgmm::Load(x, dtype, j);
    return true;
  }
};

}  // namespace
}  // namespace qgmm::cpu
