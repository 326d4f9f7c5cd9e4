// SPDX-License-Identifier: Apache-2.0
// Storage conversions against formulas in double: widening exhaustively, narrowing at and around every tie.
#include "numeric.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace qgmm {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// sign * mantissa * 2^exponent of a small format, from its textbook definition.
double Decode(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  const int exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1));
  const double whole = exponent == 0 ? mantissa : mantissa + (1u << mantissa_bits);
  const double magnitude = std::ldexp(whole, std::max(exponent, 1) - bias - mantissa_bits);
  return bits >> (exponent_bits + mantissa_bits) & 1 ? -magnitude : magnitude;
}

void ExpectSame(float got, double expected, uint32_t code) {
  EXPECT_EQ(static_cast<double>(got), expected) << std::hex << code;
  EXPECT_EQ(std::signbit(got), std::signbit(expected)) << std::hex << code;
}

/// A format with Inf and NaN: the largest exponent is theirs.
template <class From>
void CheckWidening(uint32_t codes, int exponent_bits, int mantissa_bits, From from) {
  const uint32_t top = ((1u << exponent_bits) - 1) << mantissa_bits, sign = 1u << (exponent_bits + mantissa_bits);
  for (uint32_t code = 0; code < codes; ++code) {
    const float got = from(code);
    if ((code & ~sign) > top) EXPECT_TRUE(std::isnan(got)) << std::hex << code;
    else if ((code & ~sign) == top) EXPECT_EQ(got, code & sign ? -kInf : kInf) << std::hex << code;
    else ExpectSame(got, Decode(code, exponent_bits, mantissa_bits), code);
  }
}

TEST(Widen, HalfExhaustive) {
  CheckWidening(1 << 16, 5, 10, [](uint32_t code) { return FromHalf(static_cast<uint16_t>(code)); });
}

TEST(Widen, BFloat16Exhaustive) {
  CheckWidening(1 << 16, 8, 7, [](uint32_t code) { return FromBFloat16(static_cast<uint16_t>(code)); });
}

TEST(Widen, Float8E5M2Exhaustive) {
  CheckWidening(1 << 8, 5, 2, [](uint32_t code) { return FromFloat8E5M2(static_cast<uint8_t>(code)); });
}

TEST(Widen, Float8E4M3Exhaustive) {
  for (uint32_t code = 0; code < 256; ++code) {
    const float got = FromFloat8E4M3(static_cast<uint8_t>(code));
    if ((code & 0x7F) == 0x7F) EXPECT_TRUE(std::isnan(got));  // the only NaN; there is no Inf
    else ExpectSame(got, Decode(code, 4, 3), code);
  }
}

/// v rounded half to even to `mantissa_bits` behind the leading one, not below 2^least steps: in double, by its own
/// rounding of v / step, which is exact but for that one rounding. `largest`: beyond it Inf.
double Rounded(double v, int mantissa_bits, int least, double largest) {
  if (v == 0 || std::isinf(v)) return v;
  const int step = std::max(std::ilogb(v) - mantissa_bits, least);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(v, -step)), step);
  return std::fabs(rounded) > largest ? std::copysign(static_cast<double>(kInf), v) : rounded;
}

void ExpectHalf(float v) {
  const double expected = Rounded(static_cast<double>(v), 10, -24, 65504);
  ExpectSame(FromHalf(ToHalf(v)), expected, Bits(v));
}

void ExpectBFloat16(float v) {
  const double expected = Rounded(static_cast<double>(v), 7, -133, 0x1.FEp127);
  ExpectSame(FromBFloat16(ToBFloat16(v)), expected, Bits(v));
}

/// Both signs of the code's value, of the tie above it, and of the tie's neighbours.
template <class From, class Expect>
void CheckTies(uint32_t first_infinite, From from, Expect expect) {
  for (uint32_t code = 0; code < first_infinite; ++code) {
    const double low = static_cast<double>(from(code));
    const double high = code + 1 < first_infinite ? static_cast<double>(from(code + 1))
                                                  : low + (low - static_cast<double>(from(code - 1)));
    const double middle = low + (high - low) / 2;
    const float tie = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(tie), middle);  // fp32 holds every tie
    for (const float v : {static_cast<float>(low), tie, std::nextafter(tie, 0.0f), std::nextafter(tie, kInf)}) {
      expect(v);
      expect(-v);
    }
  }
}

TEST(Narrow, HalfAroundEveryTie) {
  CheckTies(0x7C00, [](uint32_t code) { return FromHalf(static_cast<uint16_t>(code)); }, ExpectHalf);
  EXPECT_EQ(ToHalf(65520.0f), 0x7C00);  // the tie above the largest goes to the even side: Inf
  EXPECT_EQ(ToHalf(std::nextafter(65520.0f, 0.0f)), 0x7BFF);
  EXPECT_EQ(ToHalf(0x1p-25f), 0x0000);
  EXPECT_EQ(ToHalf(-0x1p-25f), 0x8000);
  EXPECT_EQ(ToHalf(0x1.8p-24f), 0x0002);
}

TEST(Narrow, BFloat16AroundEveryTie) {
  CheckTies(0x7F80, [](uint32_t code) { return FromBFloat16(static_cast<uint16_t>(code)); }, ExpectBFloat16);
  EXPECT_EQ(ToBFloat16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(ToBFloat16(0x1.01p0f), 0x3F80);  // 1 + 2^-8, half a step: to the even 1
  EXPECT_EQ(ToBFloat16(0x1.03p0f), 0x3F82);
}

TEST(Narrow, RandomBits) {
  const uint32_t seed = 3;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 1000000; ++i) {
    const float v = FromBits(random());
    if (std::isnan(v)) continue;
    ExpectHalf(v);
    ExpectBFloat16(v);
    const float significand = FromBits((random() & 0x807FFFFF) | 0x3F800000);
    ExpectHalf(std::ldexp(significand, static_cast<int>(random() % 44) - 27));  // 2^-27 to 2^17: where half has values
  }
}

TEST(Narrow, CanonicalNan) {
  for (const uint32_t bits : {0x7F800001u, 0x7F801000u, 0x7FC00000u, 0x7FFFFFFFu, 0xFF800001u, 0xFFC12345u}) {
    EXPECT_EQ(ToHalf(FromBits(bits)), 0x7E00) << std::hex << bits;
    EXPECT_EQ(ToBFloat16(FromBits(bits)), 0x7FC0) << std::hex << bits;
  }
  EXPECT_EQ(ToHalf(kInf), 0x7C00);
  EXPECT_EQ(ToHalf(-kInf), 0xFC00);
  EXPECT_EQ(ToBFloat16(kInf), 0x7F80);
  EXPECT_EQ(ToBFloat16(-kInf), 0xFF80);
}

/// The code nearest to |v| among 0 .. last, searched one by one; of two equally near ones the even code.
template <class From>
uint32_t NearestCode(float v, uint32_t last, From from) {
  const double magnitude = std::fabs(static_cast<double>(v));
  uint32_t best = 0;
  double distance = magnitude;
  for (uint32_t code = 1; code <= last; ++code) {
    const double d = std::fabs(static_cast<double>(from(static_cast<uint8_t>(code))) - magnitude);
    if (d < distance || (d == distance && code % 2 == 0)) {
      best = code;
      distance = d;
    }
  }
  return best | (std::signbit(v) ? 0x80 : 0);
}

template <class From, class To>
void CheckFloat8(uint32_t last, From from, To to) {
  for (uint32_t code = 0; code < last; ++code) {
    const float tie = (from(static_cast<uint8_t>(code)) + from(static_cast<uint8_t>(code + 1))) / 2;  // exact in fp32
    const float value = from(static_cast<uint8_t>(code));
    for (const float v : {value, tie, std::nextafter(tie, 0.0f), std::nextafter(tie, kInf)}) {
      EXPECT_EQ(to(v), NearestCode(v, last, from)) << v;
      EXPECT_EQ(to(-v), NearestCode(-v, last, from)) << -v;
    }
  }
  const uint32_t seed = 4;
  std::mt19937 random(seed);
  for (int i = 0; i < 50000; ++i) {
    const float v = std::ldexp(FromBits((random() & 0x807FFFFF) | 0x3F800000), static_cast<int>(random() % 40) - 20);
    EXPECT_EQ(to(v), NearestCode(v, last, from)) << v << ", seed " << seed;
  }
}

TEST(Narrow, Float8E4M3NearestOfTheTable) { CheckFloat8(0x7E, FromFloat8E4M3, ToFloat8E4M3); }
TEST(Narrow, Float8E5M2NearestOfTheTable) { CheckFloat8(0x7B, FromFloat8E5M2, ToFloat8E5M2); }

TEST(Narrow, Float8Saturates) {
  for (const float v : {448.0f, 464.0f, 465.0f, 1000.0f, 3e38f, kInf}) {
    EXPECT_EQ(ToFloat8E4M3(v), 0x7E) << v;
    EXPECT_EQ(ToFloat8E4M3(-v), 0xFE) << v;
  }
  for (const float v : {57344.0f, 61440.0f, 65536.0f, 3e38f, kInf}) {
    EXPECT_EQ(ToFloat8E5M2(v), 0x7B) << v;
    EXPECT_EQ(ToFloat8E5M2(-v), 0xFB) << v;
  }
}

TEST(Narrow, Float8SubnormalsAndSignedZero) {
  EXPECT_EQ(ToFloat8E4M3(0.0f), 0x00);
  EXPECT_EQ(ToFloat8E4M3(-0.0f), 0x80);
  EXPECT_EQ(ToFloat8E4M3(0x1p-9f), 0x01);
  EXPECT_EQ(ToFloat8E4M3(-0x1p-10f), 0x80);  // a tie with zero: even, and the sign stays
  EXPECT_EQ(ToFloat8E4M3(0x1.8p-9f), 0x02);
  EXPECT_EQ(ToFloat8E4M3(FromBits(1)), 0x00);
  EXPECT_EQ(ToFloat8E5M2(-0.0f), 0x80);
  EXPECT_EQ(ToFloat8E5M2(0x1p-16f), 0x01);
  EXPECT_EQ(ToFloat8E5M2(-0x1p-17f), 0x80);
  EXPECT_EQ(ToFloat8E5M2(0x1.8p-16f), 0x02);
  EXPECT_EQ(ToFloat8E5M2(-FromBits(1)), 0x80);
}

template <class T>
std::vector<std::byte> Unaligned(std::initializer_list<T> values) {  // the values start at an odd address
  std::vector<std::byte> bytes(1 + values.size() * sizeof(T));
  std::memcpy(bytes.data() + 1, std::data(values), values.size() * sizeof(T));
  return bytes;
}

TEST(LoadStore, EveryDTypeAtAnyAddress) {
  EXPECT_EQ(Load(Unaligned<int8_t>({5, -128}).data() + 1, DType::kInt8, 1), -128.0f);
  const auto ints = Unaligned<int32_t>({0, 16777217, 16777219});  // one rounding each, half to even
  EXPECT_EQ(Load(ints.data() + 1, DType::kInt32, 1), 16777216.0f);
  EXPECT_EQ(Load(ints.data() + 1, DType::kInt32, 2), 16777220.0f);
  EXPECT_EQ(Load(Unaligned<float>({0, -2.5f}).data() + 1, DType::kFloat32, 1), -2.5f);
  EXPECT_EQ(Load(Unaligned<uint16_t>({0, 0xC500}).data() + 1, DType::kFloat16, 1), -5.0f);
  EXPECT_EQ(Load(Unaligned<uint16_t>({0, 0xC0A0}).data() + 1, DType::kBFloat16, 1), -5.0f);
  EXPECT_EQ(Load(Unaligned<uint8_t>({0, 0xCA}).data() + 1, DType::kFloat8E4M3, 1), -5.0f);
  EXPECT_EQ(Load(Unaligned<uint8_t>({0, 0xC5}).data() + 1, DType::kFloat8E5M2, 1), -5.0f);
}

TEST(LoadStore, Int64CarriesFloatBitsLow) {
  const auto bytes = Unaligned<uint64_t>({0, 0x00000000BF800000u, 0xDEADBEEF3FC00000u, 0x0000400040490FDBu});
  for (const DType dtype : {DType::kInt64, DType::kUInt64}) {
    EXPECT_EQ(Load(bytes.data() + 1, dtype, 1), -1.0f);
    EXPECT_EQ(Load(bytes.data() + 1, dtype, 2), 1.5f);
    EXPECT_EQ(Bits(Load(bytes.data() + 1, dtype, 3)), 0x40490FDBu);  // all 32 bits count
  }
}

TEST(LoadStore, StoresCanonicalNanAndNothingElse) {
  unsigned char out[17];
  std::memset(out, 0xAB, sizeof(out));
  Store(out + 1, DType::kFloat32, 1, FromBits(0xFFFFFFFF));
  Store(out + 1, DType::kFloat16, 5, -5.0f);
  Store(out + 1, DType::kBFloat16, 6, FromBits(0x7F800001));
  const unsigned char expected[17] = {0xAB, 0xAB, 0xAB, 0xAB, 0xAB, 0x00, 0x00, 0xC0, 0x7F,
                                      0xAB, 0xAB, 0x00, 0xC5, 0xC0, 0x7F, 0xAB, 0xAB};
  EXPECT_EQ(std::memcmp(out, expected, sizeof(out)), 0);
}

}  // namespace
}  // namespace qgmm
