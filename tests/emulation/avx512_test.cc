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

TEST(Emulation, FloatsToIntegers) {
  const float from[16] = {0.5f,  1.5f,   2.5f,  -0.5f, -1.5f,  -2.5f, 126.5f, 127.49f,
                          3e9f, -3e9f, -0.0f, 1e-40f, 0x1.fffffep+30f, -0x1p31f, NAN, INFINITY};
  constexpr int32_t kNone = INT32_MIN;
  const int32_t rounded[16] = {0, 2, 2, 0, -2, -2, 126, 127, kNone, kNone, 0, 0, 0x7FFFFF80, kNone, kNone, kNone};
  const int32_t truncated[16] = {0, 1, 2, 0, -1, -2, 126, 127, kNone, kNone, 0, 0, 0x7FFFFF80, kNone, kNone, kNone};
  int32_t to[16];
  _mm512_storeu_si512(to, _mm512_cvtps_epi32(_mm512_loadu_ps(from)));
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(to[i], rounded[i]) << from[i];
  _mm512_storeu_si512(to, _mm512_cvttps_epi32(_mm512_loadu_ps(from)));
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(to[i], truncated[i]) << from[i];
}

TEST(Emulation, NarrowAndWide) {
  const std::vector<int32_t> from = Random<int32_t>(16, 5);
  const __m512i v = _mm512_loadu_si512(from.data());
  uint16_t words[16];
  uint8_t bytes[16];
  uint32_t wide[16];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm512_cvtepi32_epi16(v));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(v));
  _mm512_storeu_si512(wide, _mm512_cvtepu16_epi32(_mm512_cvtepi32_epi16(v)));
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(words[i], static_cast<uint16_t>(from[i]));
    EXPECT_EQ(bytes[i], static_cast<uint8_t>(from[i]));
    EXPECT_EQ(wide[i], static_cast<uint16_t>(from[i]));
  }
}

TEST(Emulation, HalvesAndBack) {
  for (uint32_t first = 0; first < 0x7C00; first += 16) {  // every finite half
    uint16_t from[16], to[16];
    float floats[16];
    for (uint32_t i = 0; i < 16; ++i) from[i] = static_cast<uint16_t>(first + i);
    const __m512 v = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    _mm512_storeu_ps(floats, v);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    for (uint32_t i = 0; i < 16; ++i) {
      const int exponent = from[i] >> 10;
      const float fraction = static_cast<float>((from[i] & 1023) + (exponent ? 1024 : 0));
      ASSERT_EQ(floats[i], std::ldexp(fraction, (exponent ? exponent : 1) - 25)) << from[i];
      ASSERT_EQ(to[i], from[i]);
    }
  }
}

TEST(Emulation, ScaleKeepsSubnormals) {
  const float v[16] = {1, 1.5f, -1.25f, 0x1.fffffep+0f, 1, 3, 1.5f, 0, -0.0f, 1, INFINITY, NAN, 1, 1.75f, 1.75f, 1};
  const float n[16] = {-149, -149, -148, -126, 128, 127, -150, 5, -150, 0.9f, -150, 3, NAN, -0.1f, 1, -1000};
  const float expected[16] = {0x1p-149f, 0x1p-148f, -0x1.4p-148f, 0x1.fffffep-126f, INFINITY, INFINITY, 0x1p-149f, 0,
                              -0.0f, 1, INFINITY, NAN, NAN, 0.875f, 3.5f, 0};
  float to[16];
  _mm512_storeu_ps(to, _mm512_scalef_ps(_mm512_loadu_ps(v), _mm512_loadu_ps(n)));
  for (size_t i = 0; i < 16; ++i) {
    EXPECT_TRUE(to[i] == expected[i] || (std::isnan(to[i]) && std::isnan(expected[i]))) << v[i] << ", " << n[i];
    EXPECT_TRUE(std::isnan(to[i]) || std::signbit(to[i]) == std::signbit(expected[i])) << v[i] << ", " << n[i];
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
