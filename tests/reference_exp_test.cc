// SPDX-License-Identifier: Apache-2.0
// Exp, Silu and the activations of the reference against the figures of docs/operators.md, section 2, and long double.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "numeric.h"
#include "reference.h"

namespace qgmm::reference {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

uint64_t CanonicalBits(float v) { return std::isnan(v) ? kNanBits : Bits(v); }

/// The checksum over u = stride * [begin, end).
uint64_t Checksum(uint64_t begin, uint64_t end, uint64_t stride) {
  uint64_t sum = 0;
  for (uint64_t i = begin; i < end; ++i) {
    const uint64_t u = i * stride;
    const float t = FromBits(static_cast<uint32_t>(u));
    const uint64_t x = CanonicalBits(Exp(t)), y = CanonicalBits(Silu(t));
    sum += (y * 0x9E3779B97F4A7C15u) ^ (x * 0xC2B2AE3D27D4EB4Fu + u);
  }
  return sum;
}

TEST(ReferenceExpSilu, ChecksumStrided) {
  const uint64_t count = ((uint64_t{1} << 32) + 60) / 61, half = count / 2;  // u = 0, 61, 122, ... < 2^32
  uint64_t first = 0;
  std::thread other([&] { first = Checksum(0, half, 61); });
  const uint64_t second = Checksum(half, count, 61);
  other.join();
  EXPECT_EQ(first + second, 0xF5DDC917CD9E0338u);
}

TEST(ReferenceExpSilu, TableOfBits) {
  const struct { float t; uint32_t exp, silu; } rows[] = {
      {0.5f, 0x3fd3094c, 0x3e9f597f},           {1.0f, 0x402df854, 0x3f3b26a8},
      {-1.0f, 0x3ebc5ab2, 0xbe89b2b1},          {10.0f, 0x46ac14ef, 0x411ffe24},
      {-10.0f, 0x383e6bce, 0xb9ee03fc},         {-88.0f, 0x0041edc4, 0x83354ddc},
      {0x1.62e42ep+6f, 0x7f7fff84, 0x42b17217}, {-0x1.62e43p+6f, 0x00200000, 0x80000000},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(Bits(Exp(row.t)), row.exp) << row.t;
    EXPECT_EQ(Bits(Silu(row.t)), row.silu) << row.t;
  }
}

TEST(ReferenceExpSilu, SpecialValues) {
  EXPECT_TRUE(std::isnan(Exp(kNan)));
  EXPECT_TRUE(std::isnan(Exp(FromBits(0xFFFFFFFF))));
  EXPECT_EQ(Bits(Exp(kInf)), Bits(kInf));
  EXPECT_EQ(Bits(Exp(-kInf)), 0u);
  EXPECT_EQ(Bits(Exp(0.0f)), Bits(1.0f));
  EXPECT_EQ(Bits(Exp(-0.0f)), Bits(1.0f));
  EXPECT_TRUE(std::isnan(Silu(kNan)));
  EXPECT_EQ(Bits(Silu(kInf)), Bits(kInf));
  EXPECT_TRUE(std::isnan(Silu(-kInf)));
  EXPECT_EQ(Bits(Silu(0.0f)), 0u);
  EXPECT_EQ(Bits(Silu(-0.0f)), 0x80000000u);
}

TEST(ReferenceExpSilu, Thresholds) {
  const float overflow = 0x1.62e43p+6f, underflow = -0x1.9fe36ap+6f, identity = 0x1.0a2b24p+4f;
  EXPECT_EQ(Exp(overflow), kInf);
  EXPECT_LT(Exp(std::nextafter(overflow, 0.0f)), kInf);
  EXPECT_EQ(Bits(Exp(underflow)), 0u);
  EXPECT_GT(Exp(std::nextafter(underflow, 0.0f)), 0.0f);
  EXPECT_EQ(Silu(identity), identity);
  EXPECT_LT(Silu(std::nextafter(identity, 0.0f)), std::nextafter(identity, 0.0f));
  EXPECT_EQ(Bits(Silu(-overflow)), 0x80000000u);
  EXPECT_LT(Silu(std::nextafter(-overflow, 0.0f)), 0.0f);
  for (float t = identity; t < 1e38f; t *= 1.37f) EXPECT_EQ(Silu(t), t);
}

TEST(ReferenceExpSilu, Subnormals) {
  for (uint32_t bits : {1u, 2u, 0x7FFFFFu, 0x400000u}) {  // t + t^2 / 2 is t: Silu halves and rounds once
    const float t = FromBits(bits);
    EXPECT_EQ(Bits(Exp(t)), Bits(1.0f)) << bits;
    EXPECT_EQ(Silu(t), static_cast<float>(static_cast<double>(t) / 2)) << bits;
    EXPECT_EQ(Silu(-t), static_cast<float>(static_cast<double>(-t) / 2)) << bits;
  }
  for (float t = -87.4f; t > -103.9f; t -= 0.013f) {  // subnormal results: the contract found 0.858 of 2^-149 at most
    EXPECT_NEAR(static_cast<double>(Exp(t)) * 0x1p149, std::exp(static_cast<double>(t)) * 0x1p149, 0.86) << t;
  }
}

TEST(ReferenceExpSilu, Accuracy) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> wide(-87.0f, 88.7f);
  double worst_exp = 0, worst_silu = 0;
  for (int i = 0; i < 1000000; ++i) {
    const float t = wide(random);
    const long double e = std::exp(static_cast<long double>(t)), s = t / (1 + std::exp(-static_cast<long double>(t)));
    worst_exp = std::max(worst_exp, static_cast<double>(std::fabs(Exp(t) / e - 1)));
    worst_silu = std::max(worst_silu, static_cast<double>(std::fabs(Silu(t) / s - 1)));
  }
  EXPECT_LE(worst_exp, 7.63e-8);   // found over all inputs
  EXPECT_LE(worst_silu, 1.744e-7);
  EXPECT_GE(worst_exp, 5.9e-8);    // 2^-24: no fp32 function is better, so this is really fp32
}

/// act(z) in long double, straight from its definition.
long double Exact(Activation activation, long double z) {
  const long double pi = 3.14159265358979323846L;
  switch (activation) {
    case Activation::kNone: return z;
    case Activation::kRelu: return z > 0 ? z : 0;
    case Activation::kSilu: return z / (1 + std::exp(-z));
    case Activation::kFastGelu: return z / (1 + std::exp(-1.702L * z));
    case Activation::kGeluTanh: return 0.5L * z * (1 + std::tanh(std::sqrt(2 / pi) * (z + 0.044715L * z * z * z)));
  }
  return 0;
}

constexpr Activation kAll[] = {Activation::kNone, Activation::kRelu, Activation::kGeluTanh, Activation::kFastGelu,
                               Activation::kSilu};

TEST(ReferenceActivations, NearTheirDefinitions) {
  std::mt19937 random(2);
  std::normal_distribution<float> bell(0.0f, 3.0f);
  for (const Activation activation : kAll) {
    for (int i = 0; i < 20000; ++i) {
      const float z = bell(random);
      const double exact = static_cast<double>(Exact(activation, z));
      EXPECT_NEAR(static_cast<double>(Activate(activation, z)), exact, 8 * 0x1p-24 * std::fabs(static_cast<double>(z)))
          << "z " << z << ", act_type " << static_cast<int>(activation);
    }
  }
}

TEST(ReferenceActivations, LargeAndNan) {
  for (const Activation activation : kAll) {
    EXPECT_TRUE(std::isnan(Activate(activation, kNan)));
    for (const float z : {100.0f, 1e6f, 3e38f, kInf}) EXPECT_EQ(Activate(activation, z), z);
    for (const float z : {-200.0f, -1e6f}) EXPECT_EQ(Activate(activation, z), activation == Activation::kNone ? z : 0);
  }
  EXPECT_EQ(Bits(Activate(Activation::kRelu, -0.0f)), 0x80000000u);  // z < 0 is false for -0: it passes
}

}  // namespace
}  // namespace qgmm::reference
