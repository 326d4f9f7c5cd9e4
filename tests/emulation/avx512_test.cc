// SPDX-License-Identifier: Apache-2.0
// What avx512.h itself supplies, against the instructions' definitions written as loops over lanes.
#include "avx512.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace qgmm {
namespace {

template <class Lane>
std::vector<Lane> Random(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  const Lane extremes[] = {std::numeric_limits<Lane>::min(), std::numeric_limits<Lane>::max(), 0, 1};
  std::vector<Lane> v(count);
  for (Lane& lane : v) lane = random() % 4 ? static_cast<Lane>(random()) : extremes[random() % 4];
  return v;
}

TEST(Emulation, IntegersToFloatsRoundToNearestEven) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    std::vector<int32_t> from = Random<int32_t>(16, seed);
    from[3] = (1 << 24) + 1;  // halfway: down to the even one
    from[4] = (1 << 24) + 3;  // halfway: up to the even one
    float to[16];
    _mm512_storeu_ps(to, _mm512_cvtepi32_ps(_mm512_loadu_si512(from.data())));
    for (size_t i = 0; i < 16; ++i) {
      // The double is exact, and lrint of its quotient by the spacing of floats rounds once.
      const double exact = from[i];
      const int bits = from[i] == 0 ? 0 : std::max(0, std::ilogb(exact) - 23);
      ASSERT_EQ(to[i], std::ldexp(std::nearbyint(std::ldexp(exact, -bits)), bits)) << from[i];
    }
  }
}

TEST(Emulation, ShiftRightKeepsTheSign) {
  const std::vector<int32_t> from = Random<int32_t>(16, 1);
  for (const unsigned count : {0u, 1u, 8u, 24u, 31u, 32u, 100u}) {
    int32_t to[16];
    _mm512_storeu_si512(to, _mm512_srai_epi32(_mm512_loadu_si512(from.data()), count));
    for (size_t i = 0; i < 16; ++i) {
      const double floor = std::floor(std::ldexp(from[i], -static_cast<int>(count)));
      ASSERT_EQ(to[i], count > 31 ? (from[i] < 0 ? -1 : 0) : floor) << from[i] << " >> " << count;
    }
  }
}

TEST(Emulation, PairsOfInt16) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::vector<int16_t> a = Random<int16_t>(32, seed), b = Random<int16_t>(32, seed + 1000);
    int32_t to[16];
    _mm512_storeu_si512(to, _mm512_madd_epi16(_mm512_loadu_si512(a.data()), _mm512_loadu_si512(b.data())));
    for (size_t i = 0; i < 16; ++i) {
      const int64_t sum = int64_t{a[2 * i]} * b[2 * i] + int64_t{a[2 * i + 1]} * b[2 * i + 1];
      ASSERT_EQ(static_cast<uint32_t>(to[i]), static_cast<uint32_t>(sum));  // four times -32768 squared wraps
    }
  }
}

/// `dot` on bytes of type A and signed ones, extremes among them.
template <class A, class Dot>
void ExpectDotsThatWrap(Dot dot) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::vector<A> a = Random<A>(32, seed);
    const std::vector<int8_t> b = Random<int8_t>(32, seed + 1000);
    const std::vector<int32_t> start = Random<int32_t>(8, seed + 2000);
    int32_t to[8];
    const auto load = [](const auto& v) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v.data())); };
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), dot(load(start), load(a), load(b)));
    for (size_t i = 0; i < 8; ++i) {
      int64_t sum = start[i];
      for (size_t j = 4 * i; j < 4 * i + 4; ++j) sum += int64_t{a[j]} * b[j];
      ASSERT_EQ(static_cast<uint32_t>(to[i]), static_cast<uint32_t>(sum));
    }
  }
}

TEST(Emulation, DotOfUnsignedAndSignedBytesWraps) {
  ExpectDotsThatWrap<uint8_t>([](__m256i sum, __m256i a, __m256i b) { return _mm256_dpbusd_avx_epi32(sum, a, b); });
}

TEST(Emulation, DotOfSignedBytesWraps) {
  ExpectDotsThatWrap<int8_t>([](__m256i sum, __m256i a, __m256i b) { return QGMM_EMULATED_SIGNED_DOT(sum, a, b); });
}

}  // namespace
}  // namespace qgmm
