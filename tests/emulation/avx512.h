// SPDX-License-Identifier: Apache-2.0
// AVX-512, AVX-VNNI and AVX-VNNI-INT8 on a machine with AVX2: included before the first line of the kernels' files, which
// then compile unchanged. SIMDe does most of it; what its release 0.7.4 lacks or misdefines is written out here as plain
// loops and checked by avx512_test. An intrinsic that neither has does not compile: the compiler's own needs AVX-512.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace qgmm::emulation {

/// A vector's lanes, and back.
template <class Lane, int kBytes>
struct Lanes {
  static constexpr int kCount = kBytes / static_cast<int>(sizeof(Lane));
  Lane lane[kCount];
};
template <class Lane, class Vector>
inline auto LanesOf(const Vector& v) {
  Lanes<Lane, static_cast<int>(sizeof(v))> lanes;
  std::memcpy(lanes.lane, &v, sizeof(v));
  return lanes;
}
template <class Lane, int kBytes>
inline auto VectorOf(const Lanes<Lane, kBytes>& lanes) {
  if constexpr (kBytes == 16) {
    __m128i v;
    std::memcpy(&v, lanes.lane, sizeof(v));
    return v;
  } else if constexpr (kBytes == 32) {
    __m256i v;
    std::memcpy(&v, lanes.lane, sizeof(v));
    return v;
  } else if constexpr (std::is_same_v<Lane, float>) {
    __m512 v;
    std::memcpy(&v, lanes.lane, sizeof(v));
    return v;
  } else {
    __m512i v;
    std::memcpy(&v, lanes.lane, sizeof(v));
    return v;
  }
}

inline __m512 ConvertToFloats(__m512i v) {
  const auto from = LanesOf<int32_t>(v);
  Lanes<float, 64> to;
  for (int i = 0; i < to.kCount; ++i) to.lane[i] = static_cast<float>(from.lane[i]);
  return VectorOf(to);
}

inline __m512i ShiftRightArithmetic32(__m512i v, unsigned count) {
  auto lanes = LanesOf<int32_t>(v);
  for (int32_t& lane : lanes.lane) lane >>= count < 31 ? count : 31;
  return VectorOf(lanes);
}

/// As MXCSR rounds, INT32_MIN where int32 does not reach; or towards zero.
template <bool kTruncate>
inline __m512i ConvertToInts(__m512 v) {
  const auto from = LanesOf<float>(v);
  Lanes<int32_t, 64> to;
  for (int i = 0; i < to.kCount; ++i) {
    const __m128 lane = _mm_set_ss(from.lane[i]);
    to.lane[i] = kTruncate ? _mm_cvttss_si32(lane) : _mm_cvtss_si32(lane);
  }
  return VectorOf(to);
}

/// The low bits of every lane.
template <class Narrow>
inline auto KeepLowBits(__m512i v) {
  const auto from = LanesOf<uint32_t>(v);
  Lanes<Narrow, 16 * static_cast<int>(sizeof(Narrow))> to;
  for (int i = 0; i < to.kCount; ++i) to.lane[i] = static_cast<Narrow>(from.lane[i]);
  return VectorOf(to);
}

inline __m512i WidenWords(__m256i v) {
  const auto from = LanesOf<uint16_t>(v);
  Lanes<uint32_t, 64> to;
  for (int i = 0; i < to.kCount; ++i) to.lane[i] = from.lane[i];
  return VectorOf(to);
}

inline __m512 HalvesToFloats(__m256i v) {
  Lanes<float, 64> to;
  _mm256_storeu_ps(to.lane, _mm256_cvtph_ps(_mm256_castsi256_si128(v)));
  _mm256_storeu_ps(to.lane + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)));
  return VectorOf(to);
}

inline __m256i FloatsToHalves(__m512 v) {  // to nearest even
  const auto from = LanesOf<float>(v);
  return _mm256_set_m128i(_mm256_cvtps_ph(_mm256_loadu_ps(from.lane + 8), _MM_FROUND_TO_NEAREST_INT),
                          _mm256_cvtps_ph(_mm256_loadu_ps(from.lane), _MM_FROUND_TO_NEAREST_INT));
}

/// v * 2^floor(n), rounded once: SIMDe flushes subnormals.
inline __m512 ScaleByPowers(__m512 v, __m512 n) {
  auto lanes = LanesOf<float>(v);
  const auto power = LanesOf<float>(n);
  for (int i = 0; i < lanes.kCount; ++i) {
    const float p = power.lane[i];
    const float near = std::floor(std::fmin(std::fmax(p, -1000.0f), 1000.0f));
    lanes.lane[i] = std::isnan(p) ? p : std::scalbn(lanes.lane[i], static_cast<int>(near));
  }
  return VectorOf(lanes);
}

/// Four products of bytes per lane, A: uint8_t or int8_t, the others signed; added modulo 2^32.
template <class A>
inline __m256i DotBytes(__m256i sum, __m256i bytes, __m256i signed_bytes) {
  auto to = LanesOf<uint32_t>(sum);
  const auto a = LanesOf<A>(bytes);
  const auto b = LanesOf<int8_t>(signed_bytes);
  for (int i = 0; i < 32; ++i) to.lane[i / 4] += static_cast<uint32_t>(a.lane[i] * b.lane[i]);
  return VectorOf(to);
}

}  // namespace qgmm::emulation

// Lacking in 0.7.4.
#undef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps(v) qgmm::emulation::ConvertToFloats(v)
#undef _mm512_srai_epi32
#define _mm512_srai_epi32(v, count) qgmm::emulation::ShiftRightArithmetic32(v, count)
#undef _mm512_scalef_ps
#define _mm512_scalef_ps(v, n) qgmm::emulation::ScaleByPowers(v, n)
#undef _mm512_cvtps_epi32
#define _mm512_cvtps_epi32(v) qgmm::emulation::ConvertToInts<false>(v)
#undef _mm512_cvttps_epi32
#define _mm512_cvttps_epi32(v) qgmm::emulation::ConvertToInts<true>(v)
#undef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16(v) qgmm::emulation::KeepLowBits<uint16_t>(v)
#undef _mm512_cvtepi32_epi8
#define _mm512_cvtepi32_epi8(v) qgmm::emulation::KeepLowBits<uint8_t>(v)
#undef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32(v) qgmm::emulation::WidenWords(v)
#undef _mm512_cvtph_ps
#define _mm512_cvtph_ps(v) qgmm::emulation::HalvesToFloats(v)
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph(v, rounding) qgmm::emulation::FloatsToHalves(v)
#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32(sum, a, b) qgmm::emulation::DotBytes<uint8_t>(sum, a, b)

// vpdpbssd, which the kernel's file writes as assembly.
#define QGMM_EMULATED_SIGNED_DOT(sum, a, b) qgmm::emulation::DotBytes<int8_t>(sum, a, b)

// Its alias takes four arguments.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
